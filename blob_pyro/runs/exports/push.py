"""`push_to_hub`: an exported folder to the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from blob_pyro.errors import HubError
from blob_pyro.runs.exports.manifest import MANIFEST, check_manifest
from blob_pyro.system.hub_errors import one_line


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Send an exported folder to a model repository of the hub, which is made if it is not there.

    Args:
        folder: what `export` wrote; a run directory itself is refused, since it holds the names of your files.
        repo_id: "ORG/NAME".
        private: make a new repository private; None takes the account's usual.
        token: None takes the hub's own (HF_TOKEN, or what `hf auth login` stored). It is never written anywhere.

    Returns:
        The address of the commit.

    Raises:
        RunDirectoryError: it is no exported folder, or one that was altered.
        HubError: the hub cannot be reached, or refuses.
    """
    manifest = check_manifest(folder)
    check_repo_id(repo_id)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=str(folder),
            allow_patterns=[*manifest["sha256"], MANIFEST],  # what was exported, and nothing that lies beside it
            commit_message=f"blob_pyro: export as {manifest.get('kind')}",
        )
    except Exception as error:  # no network, offline mode, no right to it: whatever the hub's client raises
        raise HubError(f"{repo_id}: expected a repository of the hub to write to; {_why(error)}") from error
    return str(commit.commit_url)


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository's name, before the hub is asked.

    Raises:
        HubError: it is not ORG/NAME.
    """
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repo_id, re.ASCII):
        raise HubError(f"--push_to_hub: expected ORG/NAME, of letters, digits, '-', '_' and '.'; got {repo_id!r}")


def _why(error: Exception) -> str:
    """What went wrong, in one line; a status of 401 or 403 with what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses ({status}): log in with `hf auth login`, with a token that may write to it"
    return f"its client says: {one_line(error, 200)}"
