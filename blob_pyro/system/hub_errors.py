"""What the hub's refusals mean, in words; and errors on one line, without what is secret in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")


def refusal(error: BaseException) -> str:
    """Why the hub refuses access, and what to do; "" where an error has another reason.

    Libraries wrap the hub's errors in their own; whatever an error was raised from is looked at, too.

    Args:
        error: what was raised.
    """
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return "it is gated: accept its licence on its page of the hub, and log in with `hf auth login`"
        if isinstance(cause, RepositoryNotFoundError):
            return "the hub does not know it, or it is private: check the name, or log in with `hf auth login`"
        if isinstance(cause, RevisionNotFoundError):
            return "the hub knows it, but not this revision: name a branch, tag or commit of it"
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, DisabledRepoError):
            status = cause.response.status_code
            if status in (401, 403):
                return f"the hub refuses access ({status}): log in with `hf auth login` and a token that may read it"
    return ""


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """The message of an error on one line, cut to `limit` characters where one is given.

    The access token, should a library put it into a message, is replaced by ***, and so are names and passwords in
    addresses. An error without a message is called by its kind.
    """
    text = " ".join(_without_secrets(str(error)).split()) or type(error).__name__
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, what that was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without_secrets(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return _USER_IN_URL.sub("***@", text.replace(token, "***") if token else text)
