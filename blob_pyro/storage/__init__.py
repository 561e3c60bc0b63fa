"""What lies on the disk, read with suspicion and written whole: runs, their answers, adapters of others."""

from blob_pyro.storage.authors import load_authors_checkpoint, start_spread
from blob_pyro.storage.continuing import adapter_at, take_up
from blob_pyro.storage.foreign import ForeignAdapter, put_on, read_adapter

__all__ = [
    "ForeignAdapter", "adapter_at", "load_authors_checkpoint", "put_on", "read_adapter", "start_spread", "take_up",
]  # fmt: skip
