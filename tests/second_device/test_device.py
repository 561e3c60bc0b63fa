"""The simulated device tells its tensors from others as a GPU does, computes as the CPU does, and counts waits."""

from __future__ import annotations

import pytest
import torch

FIRST, OTHER = "second:0", "second:1"


def numbers(device="cpu"):
    return (torch.arange(12.0).reshape(3, 4) / 7 - 0.5).to(device)


MIXED = {
    "two devices": lambda: numbers(FIRST) + numbers(OTHER),
    "a device and the CPU": lambda: numbers(FIRST) @ numbers().T,
    "the CPU and a device": lambda: numbers() + numbers(FIRST),
    "a list": lambda: torch.cat([numbers(FIRST), numbers()]),
    "a weight": lambda: torch.nn.functional.linear(numbers(FIRST), numbers()),
    "a gradient": lambda: numbers(FIRST).requires_grad_().sum(0).backward(torch.ones(4, device=OTHER)),
    "a mask": lambda: numbers(FIRST).masked_fill(numbers() > 0, 0.0),
    "an embedding": lambda: torch.nn.functional.embedding(torch.tensor([0]), numbers(FIRST)),
}
TAKEN = {
    "a number": lambda x: x + torch.tensor(2.0),
    "places of the CPU": lambda x: x[torch.tensor([2, 0])],
    "views": lambda x: x.T[1:, ::2].reshape(-1).view(2, 3).unfold(1, 2, 1).flatten(),
    "in place": lambda x: x.clone().mul_(2).clamp_(min=0),
    "into a tensor": lambda x: torch.add(x, 1, out=torch.empty(0, device=x.device)),
    "several results": lambda x: torch.cat([x.sort(-1).values, x.topk(1).values], -1),
    "a law": lambda x: torch.distributions.Normal(x, 2.0).log_prob(x * x),
}
# What the host waits for: so many times.
WAITS = {
    "a number": (lambda x: x.sum().item(), 1),
    "a condition": (lambda x: bool((x > 0).all()), 1),
    "a copy": (lambda x: x.cpu(), 1),
    "a list": (lambda x: x.tolist(), 1),
    "places of a mask": (lambda x: x[x > 0], 1),
    "equal": (lambda x: torch.equal(x, x), 1),
    "arithmetic": (lambda x: torch.where(x > 0, x.softmax(-1), x.std()).isfinite().all(), 0),
    "new tensors": (lambda x: torch.randn_like(x) + torch.tensor([1.0, 2, 3, 4], device=x.device), 0),
    "to the device": (lambda x: torch.ones(3, 4).to(x.device), 0),
}


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_two_devices_are_an_error(name):
    with pytest.raises(RuntimeError, match="(?i)device"):
        MIXED[name]()


@pytest.mark.parametrize("place", [FIRST, OTHER])
@pytest.mark.parametrize("name", TAKEN)
def test_what_it_computes_is_the_cpus(name, place):
    found = TAKEN[name](numbers(place))
    assert str(found.device) == place
    assert torch.equal(found.cpu(), TAKEN[name](numbers()))


@pytest.mark.parametrize("name", WAITS)
def test_the_host_waits_so_often(device, name):
    run, expected = WAITS[name]
    x = numbers(FIRST)
    before = device.waits()
    run(x)
    assert device.waits() - before == expected
    device.forbid(expected > 0)
    if expected:
        with pytest.raises(RuntimeError, match="the host waits for the device"):
            run(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_on_a_gpu(dtype):
    x, w = numbers(FIRST), numbers(FIRST)
    with torch.autocast("second", dtype):
        product = torch.nn.functional.linear(x, w)
        assert product.dtype == dtype
        assert product.softmax(-1).dtype == product.exp().dtype == torch.float32
        assert (x + w).dtype == torch.float32
    assert torch.equal(product.cpu(), torch.nn.functional.linear(x.cpu().to(dtype), w.cpu().to(dtype)))


def test_a_generator_draws_the_cpus_numbers():
    torch.manual_seed(3)
    expected = torch.randn(5)
    torch.manual_seed(3)
    assert torch.equal(torch.randn(5, device=OTHER).cpu(), expected)


DRAWN = {
    "normal": lambda x: torch.randn_like(x),
    "uniform": lambda x: torch.empty_like(x).uniform_(),
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.5),
    "a law": lambda x: torch.distributions.Gamma(x.square() + 1, 1.0).sample(),
    "an order": lambda x: torch.randperm(12, device=x.device),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_device_can_have_a_generator_of_its_own(device, name):
    """The same numbers from the same seed; what one draws does not move the others'."""
    draw = DRAWN[name]
    torch.manual_seed(3)
    expected = draw(numbers())
    device.own_generators(True)
    torch.manual_seed(3)
    first, cpu = torch.second.get_rng_state(FIRST), torch.get_rng_state()
    found = draw(numbers(OTHER))
    assert torch.equal(found.cpu(), draw(numbers(FIRST)).cpu()) and not torch.equal(found.cpu(), numbers())
    if name != "dropout":  # another kernel than the CPU's
        assert torch.equal(found.cpu(), expected)
    assert torch.equal(torch.get_rng_state(), cpu)
    assert not torch.equal(torch.second.get_rng_state(FIRST), first)
    torch.second.set_rng_state(first, OTHER)
    assert torch.equal(draw(numbers(OTHER)).cpu(), found.cpu())
