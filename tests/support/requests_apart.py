"""A module whose `main` is called in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> object:
    """Give the request back, or do what it says."""
    if "sleep" in request:
        Path(request["sleep"]).write_text(str(os.getpid()))
        time.sleep(600)
    if "killed" in request:
        print(f"one\n{request['killed']}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if "error" in request:
        raise ValueError(request["error"])
    print("something else, first")
    print("much to say" * 100_000, file=sys.stderr)
    warnings.warn("of a library", stacklevel=1)
    return request
