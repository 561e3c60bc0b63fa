"""What lies on the disk, read with suspicion and written whole: runs, their answers, adapters of others."""

from blob_pyro.storage.authors import load_authors_checkpoint, start_spread
from blob_pyro.storage.foreign import ForeignAdapter, put_on, read_adapter

__all__ = ["ForeignAdapter", "load_authors_checkpoint", "put_on", "read_adapter", "start_spread"]
