"""What is done in a process of its own: a fresh interpreter, which ends when the one that started it does."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from threading import Thread
from typing import Any

from blob_pyro.errors import BlobPyroError
from blob_pyro.system.terminal import quiet_libraries

_CODE = "import sys; from blob_pyro.system.apart import answer; answer(sys.argv[1], sys.argv[2])"


def start_apart(module: str, request: Any, **options: Any) -> subprocess.Popen[bytes]:
    """Have a process of its own `answer` a request.

    Args:
        module: what has a `main`. (Python's -m would warn of a module that its package has imported.)
        request: JSON types.
        options: of `subprocess.Popen`.

    Returns:
        The process, which ends at once when its standard input is closed, as it is when this process ends.
    """
    command = [sys.executable, "-c", _CODE, module, json.dumps(request)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, **options)


def run_apart(module: str, request: Any) -> Any:
    """What the `main` of a module gives for a request, in a process of its own; JSON types both.

    Raises:
        BlobPyroError: the process failed, or was killed (as the system does where memory ends).
    """
    with tempfile.TemporaryFile() as errors:
        with start_apart(module, request, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            printed = process.stdout.read()  # its standard input stays open meanwhile
            code = process.wait()
        errors.seek(0)
        if code != 0:
            raise BlobPyroError(why_ended(code, errors.read().decode(errors="replace")))
    return json.loads(printed.splitlines()[-1])


def why_ended(code: int, errors: str) -> str:
    """What there is to say of a process that failed: its exit code, and the last line of what it wrote to `errors`."""
    last = (errors.strip().splitlines() or ["nothing"])[-1]
    return f"expected its process to end well; got exit code {code}, and it says: {last}"


def answer(module: str, request: str) -> None:
    """Call the `main` of a module with a request, and print what it gives, in a process that is there for that alone.

    From now on it ends when the one that started it does, however that ends: nothing else closes the pipe that is its
    standard input. It may be interrupted, also where that one ignores Ctrl-C, as what a script starts with "&" does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Thread(target=_end_with_input, daemon=True).start()
    try:
        with quiet_libraries():
            reply = importlib.import_module(module).main(json.loads(request))
        if reply is not None:
            print(json.dumps(reply))
    except KeyboardInterrupt as interrupt:
        sys.exit(f"stopped by Ctrl-C; {str(interrupt) or 'nothing was saved'}")


def _end_with_input() -> None:
    os.read(0, 1)  # not by sys.stdin, whose lock would be held when the interpreter ends
    os._exit(1)  # as by SIGKILL: what is on the disk is whole at any moment
