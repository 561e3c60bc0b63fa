"""A second device for tests, of which the machine has two, which counts what the host waits for (see second.cpp)."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.utils import cpp_extension

NAME = "second"


def install() -> Any:
    """Build the extension, which takes a minute the first time, and name its device for the rest of the process."""
    folder = Path(torch.hub.get_dir()).parent / f"blob_pyro_second_device_{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".filelock"):  # which the system releases, where a killed build leaves torch's own for ever
        (folder / "lock").unlink(missing_ok=True)
        source = str(Path(__file__).with_name("second.cpp"))
        built = cpp_extension.load("blob_pyro_second_device", [source], build_directory=str(folder))
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module(built))
    built.register()
    torch.utils.generate_methods_for_privateuse1_backend()
    return built


def _module(built: Any) -> types.ModuleType:
    """`torch.second`: what torch, transformers and accelerate call of a device's module."""

    def index(device: Any) -> int:
        found = device if isinstance(device, int) else torch.device(device).index
        return built.current() if found is None else found

    module: Any = types.ModuleType(f"torch.{NAME}")
    module.is_available = module.is_initialized = module.is_bf16_supported = lambda: True
    module.device_count = built.count
    module.current_device = built.current
    module.set_device = lambda device: built.set_current(index(device))
    module._is_in_bad_fork = lambda: False
    module._lazy_init = module.synchronize = module.empty_cache = lambda *_: None
    module.manual_seed = lambda seed: built.manual_seed(seed, built.current())
    module.manual_seed_all = lambda seed: [built.manual_seed(seed, place) for place in range(built.count())]
    module.get_rng_state = lambda device=NAME: built.get_rng_state(index(device))
    module.set_rng_state = lambda state, device=NAME: built.set_rng_state(state, index(device))
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    module.memory_allocated = module.max_memory_allocated = lambda device=None: 0
    return module
