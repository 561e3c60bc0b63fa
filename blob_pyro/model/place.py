"""Where a model is: a package's, in a local folder, or on the hub at a revision, which is asked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.config.checks import did_you_mean
from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.system.hub_errors import one_line, refusal
from blob_pyro.system.packaged import ALIASES, packaged_model

HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Place:
    """Where `from_pretrained` finds a model.

    Attributes:
        path: a folder, or a hub id.
        local_only: the hub need not or cannot be asked; its files are in the local cache or nowhere.
        why: what is wrong with the hub, "" where nothing is.
        refusal: why the hub refuses access and what to do, "" where it does not.
        revision: branch, tag or commit; None is the main branch.
    """

    path: str
    local_only: bool = False
    why: str = ""
    refusal: str = ""
    revision: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What `from_pretrained` takes beside the path."""
        given = {} if self.revision is None else {"revision": self.revision}
        return {"local_files_only": self.local_only, **given}


def locate(id_or_path: str, revision: str | None = None) -> Place:
    """Find an alias, a local folder or a hub id; the hub is asked once and at most `HUB_TIMEOUT` seconds.

    Left to themselves the libraries ask an unreachable hub six times, for nearly a minute.

    Args:
        id_or_path: one of these.
        revision: of a hub id: branch, tag or commit; None is its main branch.

    Raises:
        ModelLoadError: it is none of these, or the hub does not know it, or keeps it behind a gate.
        ConfigError: a revision of what is not on the hub.
    """
    if revision is not None and (id_or_path in ALIASES or exists(id_or_path)):
        kind = "a packaged model" if id_or_path in ALIASES else "a local folder"
        raise ConfigError(
            f"model.revision: expected none beside {kind}; got {revision} of {id_or_path}: leave it out (of a saved "
            "run: name its base again, with --base)"
        )
    if id_or_path in ALIASES:
        return Place(str(packaged_model(id_or_path)), local_only=True)
    if exists(id_or_path):
        if not Path(id_or_path).is_dir():
            raise no_such_model(id_or_path, f"this is a file: name its folder, {Path(id_or_path).parent}", advice="")
        return Place(id_or_path, local_only=True)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if id_or_path.startswith((".", "/", "~")):
        raise no_such_model(id_or_path, "there is no such folder")
    try:
        HfApi().model_info(id_or_path, revision=revision, timeout=HUB_TIMEOUT)
    except HFValidationError as error:
        raise no_such_model(id_or_path, "there is no such folder, and it cannot be a hub id") from error
    except GatedRepoError as error:
        raise refused(id_or_path, refusal(error)) from error
    except RepositoryNotFoundError as error:
        raise no_such_model(
            id_or_path, "the hub does not know it, or it is private (log in with `hf auth login`)"
        ) from error
    except Exception as error:  # no network, offline mode, a bad token: whatever the HTTP library raises
        return Place(id_or_path, True, one_line(error, limit=120), refusal(error), revision)
    return Place(id_or_path, revision=revision)


def cached_commit(id_or_path: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a hub id is in the local cache; None of what is not of the hub.

    transformers does not tell which one it has loaded.
    """
    from huggingface_hub import try_to_load_from_cache

    if id_or_path in ALIASES or exists(id_or_path):
        return None
    found = try_to_load_from_cache(id_or_path, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


def exists(path: str) -> bool:
    """Whether there is a file or folder of that name."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long, or with a NUL byte
        return False


def no_such_model(id_or_path: str, why: str, advice: str | None = None) -> ModelLoadError:
    """The error for what is no model; without advice of its own it tells the nearest alias."""
    if advice is None:
        advice = did_you_mean(id_or_path, ALIASES) or "; check the name"
    return ModelLoadError(
        f"model {id_or_path[:200]}: expected a hub id, a local folder or an alias ({', '.join(ALIASES)}); {why}{advice}"
    )


def refused(id_or_path: str, why: str) -> ModelLoadError:
    """The error for a model that the hub keeps to itself."""
    return ModelLoadError(
        f"model {id_or_path}: expected a model that may be downloaded; {why}; or name a local folder that holds it"
    )
