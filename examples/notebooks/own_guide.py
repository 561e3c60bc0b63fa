# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own guide
#
# A posterior that the library does not have, in forty lines, and all that it gets for them: `bp.fit` with the paper's
# recipe, flipout, an analytic KL, predictions, and plain Pyro. You see which five members a guide has to say, and how
# to find out whether they agree with one another.
#
# BLoB learns a standard deviation for every entry of A, r x n of them for each layer. Here all entries of a column
# share one: n numbers for each layer, one for each input feature. It is the question "how sure am I of what this
# feature means?", at an eighth of the parameters.

# %%
from typing import Any

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.guides import AdapterGuide
from blob_pyro.report import metrics_table
from blob_pyro.report.plots import training_curves
from blob_pyro.system.terminal import quiet_libraries

# %% [markdown]
# ## Forty lines
#
# The mean is the adapter's own weight: `AdapterGuide.loc` has it, and so PEFT's save, load and merge go on working.
# What is left to say is the spread. The square of a free parameter leaves zero quickly, as BLoB's does.


# %% tags=["own-guide"]
class ColumnGuide(AdapterGuide):
    """q(A) = prod_ij Normal(M_ij, g_j^4): one standard deviation g_j^2 for each column of A, float32.

    Args:
        model: the model.
        eps: g starts as U(eps / sqrt 2, eps), as in `bp.BLoBGuide`.
    """

    is_random = True  # draws differ
    supports_flipout = True  # entries are independent and symmetric about the mean
    learns_prior_scale = True  # a law over sigma_p may be learnt along

    def __init__(self, model: bp.BayesianLoRA, eps: float = 0.05) -> None:
        super().__init__(model)
        self.eps = eps
        weights = [model.location(site) for site in model.sites]
        roots = [torch.empty(w.shape[1], device=w.device).uniform_(eps / 2**0.5, eps) for w in weights]
        self.roots = nn.ParameterList(nn.Parameter(root) for root in roots)

    def root(self, site: str) -> nn.Parameter:
        """The free parameter g of a site, (n,)."""
        parameter: nn.Parameter = self.roots[list(self.model.sites).index(site)]
        return parameter

    def scale(self, site: str) -> Tensor:
        """Standard deviation, (r, n)."""
        return self.root(site).square().expand(self.model.location(site).shape)

    def posterior(self, site: str) -> dist.Independent:
        """Normal with independent entries, event_shape (r, n)."""
        return dist.Normal(self.loc(site), self.scale(site), validate_args=False).to_event(2)

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the adapter, by Pyro name."""
        return {f"{site}.root": self.root(site) for site in self.model.sites}

    def settings(self) -> dict[str, Any]:
        """What makes it again."""
        return {"eps": self.eps}


# %% [markdown]
# `scale`, `posterior`, `scale_parameters` and `settings` are abstract in `AdapterGuide`, and so is `is_random`; the
# rest is inherited. The KL comes from torch's registry, which knows a pair of Normals; for a law of your own,
# `register_kl` it.
#
# ## Does it hold together?
#
# Four facts that any guide must satisfy, on a real network. The library's tests hold every guide to more of them
# (`tests/support/guide_laws.py`), this one included.

# %%
tweets = bp.load_task(bp.DataConfig(task="tweets", num_train=240, num_test=100), seed=0)
tokenizer = bp.load_tokenizer("minilm")
train, test = (bp.encode(part, tokenizer, max_length=64) for part in (tweets.train, tweets.test))
pad = tokenizer.pad_token_id


def fresh_model() -> bp.BayesianLoRA:
    """MiniLM with adapters on query and value of the last two blocks; the same start each time."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()  # Pyro keeps parameters by name, and a new model has the names of the one before
    with quiet_libraries():
        return bp.BayesianLoRA.from_pretrained(
            "minilm", bp.SequenceClassification(3), target_modules=r".*layer\.[45]\..*\.(query|value)",
            num_data=len(train),
        )  # fmt: skip


model = fresh_model()
guide = ColumnGuide(model)
site = next(iter(model.sites))
law = guide.posterior(site)

# 1. draws have the mean and the standard deviation that it claims
draws = torch.stack([draw[site] for draw in guide.sample_draws(2000)])
torch.testing.assert_close(draws.mean(0), guide.loc(site), atol=6 * 0.0025 / 2000**0.5, rtol=0)
torch.testing.assert_close(draws.std(0), guide.scale(site), atol=0, rtol=6 / 4000**0.5)
# 2. the KL is what draws say it is: the mean of log q - log p
gaps = law.log_prob(draws) - model.prior(site).log_prob(draws)
error = gaps.std() / len(gaps) ** 0.5
kl = torch.distributions.kl_divergence(law, model.prior(site))
assert (gaps.mean() - kl).abs() < 5 * error
# 3. nothing has moved the adapter: with B = 0, as PEFT starts it, a draw changes no answer
batch = next(iter(bp.predict_loader(test, 8, pad)))
with torch.no_grad():
    torch.testing.assert_close(model.logits(batch, {site: draws[0]}), model.logits(batch))
# 4. every parameter gets a gradient from the ELBO
pyro.infer.TraceMeanField_ELBO().differentiable_loss(model, guide, batch).backward()
assert all(parameter.grad is not None for parameter in guide.parameters())
print(f"KL of one site: {kl:,.1f} nats; by 2,000 draws {gaps.mean():,.1f} ± {error:.1f}")

# %% [markdown]
# ## Training, the library's way
#
# Nothing of this knows of ColumnGuide. Beside it, BLoB on the same network and tweets, from the same start.

# %%
config = bp.TrainConfig(num_steps=40, batch_size=8, lr=5e-3)
histories, answers = {}, {}
guides: dict[str, AdapterGuide] = {}
for build in (ColumnGuide, bp.BLoBGuide):
    name = build.__name__
    model = fresh_model()
    guides[name] = build(model)
    histories[name] = bp.fit(model, guides[name], bp.train_loader(train, 8, pad, seed=0), config, progress=False)
    answers[name] = bp.PosteriorPredictive(model, guides[name], num_samples=8)(bp.predict_loader(test, 64, pad))
print(metrics_table({name: bp.evaluate(predictions) for name, predictions in answers.items()}))

figure, axes = plt.subplots(2, 2, figsize=(10, 5), layout="constrained")
_ = training_curves(histories, ax=axes)

# %% [markdown]
# A column's eight entries pull at one number together, so that the KL widens it eight times as fast as BLoB's. Nobody
# had to say so: `bp.fit` asks a guide how long the KL takes to the width that it wants (`AdapterGuide.kl_time`), and
# both end as wide. And do the columns differ from one another, which was the question?

# %%
for name, trained in guides.items():
    spread = trained.scale(site).detach().mean(0)
    print(f"{name}: standard deviations of 384 columns from {spread.min():.4f} to {spread.max():.4f}")

# %% [markdown]
# Not after 40 steps: the KL has moved all of them alike, and the tweets none. A guide can only tell features apart
# where the likelihood has had its say, which takes more data and many more steps.

# %% [markdown]
# ## Training, Pyro's way
#
# The guide is an `nn.Module` and a Pyro guide: `forward` samples every site. So it goes wherever a guide goes.

# %%
model = fresh_model()
guide = ColumnGuide(model)
before = guide.scale(site).mean().item()
svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), pyro.infer.TraceMeanField_ELBO())
with bp.flipout():
    losses = [svi.step(batch) for batch, _ in zip(bp.train_loader(train, 8, pad, seed=0), range(15), strict=False)]
after = guide.scale(site).mean().item()
print(f"negative ELBO {losses[0]:,.0f} -> {losses[-1]:,.0f} nats; mean spread {before:.4f} -> {after:.4f}")

unlabelled = bp.Batch(batch.input_ids, batch.attention_mask)
posterior = pyro.infer.Predictive(model, guide=guide, num_samples=3, return_sites=("_RETURN",))
with torch.no_grad():
    print("logits of three draws:", tuple(posterior(unlabelled)["_RETURN"].shape), "(draws, tweets, classes)")

# %% [markdown]
# `bp.save(folder, model, guide)` keeps it, and `bp.load(folder, guide=ColumnGuide)` makes it again. The command line
# knows guides by name: for that a new one has to be entered in `blob_pyro.guides.GUIDES`, in a copy of the library.
