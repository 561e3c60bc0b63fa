"""A process that ends at a chosen operation on files: by SIGKILL, or by an error as of a full disk."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

# what Python tells an audit hook of; safetensors' own writes lie between an open or a mkdir and the next of these
OPERATIONS = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree")
KILL, FAIL = "kill", "fail"


def interrupted(action: Callable[[], object], operation: int, way: str) -> bool:
    """Run an action in a forked process that ends at its `operation`-th operation on files; whether it came so far.

    To be called in a process of one thread.
    """
    child = os.fork()
    if child == 0:
        left = [operation]

        def hook(event: str, _: object) -> None:
            if event not in OPERATIONS:
                return
            left[0] -= 1
            if left[0] == 0 and way == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            elif left[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        sys.addaudithook(hook)
        try:
            action()
        except OSError:
            os._exit(1)
        os._exit(0 if left[0] > 0 else 2)  # 2: the error was swallowed
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) != 0
