"""A site's work tried in a process of its own, a fork of the worker: what dies then is the site's, whoever kills workers.

A trial's result is thrown away, so that one which ends well only shows that the worker can do the work itself.
"""

import contextlib
import ctypes
import faulthandler
import os
import signal
from collections.abc import Callable

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux: a trial that hangs ends with its worker


def fallen(work: Callable[[], object]) -> str | None:
    """How a process that does `work` dies of it; None where it ends by itself, also by an exception.

    The fork runs one thread: torch's others do not live on in it.  Not for a process that uses a GPU, or holds files that
    `work` appends to.
    """
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):  # the worker meets it again, and says it
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            faulthandler.disable()  # it would write into the worker's own file
            import torch

            torch.set_num_threads(1)
            work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code else None
