"""The errors a user can mend. Each message is one line: what was expected, what came, what to do."""

from __future__ import annotations

from signal import SIGINT


class BlobPyroError(Exception):
    """Base of every error that blob_pyro raises on purpose; the command line prints it without a traceback.

    What the model raises while Pyro traces it is no ValueError or RuntimeError: Pyro catches those and
    appends a page of shapes to the message.
    """


class ConfigError(BlobPyroError, ValueError):
    """A setting has a value that cannot work."""


class DataError(BlobPyroError, ValueError):
    """A file, row, prompt or label is not what the task needs."""


class LabelError(BlobPyroError, IndexError):
    """A batch holds a label that is none of the likelihood's classes."""


class MissingPackageError(BlobPyroError, ImportError):
    """A package that this feature needs is not installed."""


class ModelLoadError(BlobPyroError, OSError):
    """A base model could not be found or read."""


class UnsupportedLayerError(BlobPyroError, TypeError):
    """A layer's LoRA A matrix cannot be made Bayesian."""


class UnsupportedCheckpointingError(BlobPyroError, TypeError):
    """Gradient checkpointing is of a kind that would recompute without the draws."""


class ParamStoreError(BlobPyroError, LookupError):
    """Pyro's global param store holds another tensor under a parameter's name."""


class UnsupportedPosteriorError(BlobPyroError, TypeError):
    """A posterior is used where its law does not allow it (flipout on a full-covariance guide, say)."""


class NonFiniteLossError(BlobPyroError, ArithmeticError):
    """The loss is NaN or infinite; the parameters are the last ones with a finite loss.

    Attributes:
        items: positions in the data set of the batch's items; empty where the batch has no index.
    """

    def __init__(self, message: str, items: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.items = items


class RunDirectoryError(BlobPyroError, OSError):
    """A run directory is missing, incomplete, altered, or of another format version."""


class DiskFullError(BlobPyroError, OSError):
    """There is no room for a file, which is named: what was there before stays, and nothing of the new one."""


class CheckpointError(BlobPyroError, OSError):
    """A training checkpoint could not be written, or is altered, of another version, or of another run."""


class Stopped(KeyboardInterrupt):
    """A signal asked to stop, and what there is was saved.

    A KeyboardInterrupt, so that what handles Ctrl-C handles SIGTERM and SIGHUP as well.

    Attributes:
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    @classmethod
    def after(cls, interrupt: KeyboardInterrupt, message: str) -> Stopped:
        """The same interrupt with a message; one without a signal is Ctrl-C's."""
        return cls(message, interrupt.signal if isinstance(interrupt, Stopped) else SIGINT)


class HubError(BlobPyroError, OSError):
    """A folder could not be sent to the Hugging Face hub."""
