"""Adapters that others have trained, as a start: any PEFT LoRA adapter, and those of BLoB's public code."""

from blob_pyro.importing.authors import load_authors_checkpoint, start_spread
from blob_pyro.importing.foreign import ForeignAdapter, put_on, read_adapter

__all__ = ["ForeignAdapter", "load_authors_checkpoint", "put_on", "read_adapter", "start_spread"]
