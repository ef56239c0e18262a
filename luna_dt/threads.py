"""Threads that end before the interpreter does, whoever forgets to close what started them.

The interpreter ends daemon threads wherever they are; one that is inside compiled code (hnswlib, torch) takes
the whole process down with it ("terminate called without an active exception").  So every thread of ours is
started here, and at exit each is told to stop and waited for.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

#: Seconds for which threads that only wait for the network are waited for at exit, all together: ending them
#: there is harmless, and a server that does not answer must not keep a program from ending.
EXIT_TIMEOUT = 2.0

NICE = 10  # of what is done in the background, on Linux: it takes a tenth of what others leave it no room for
BELOW_NORMAL = -1  # Windows' THREAD_PRIORITY_BELOW_NORMAL

_here = threading.local()
_running: dict[threading.Thread, tuple[Callable[[], object], bool]] = {}
_lock = threading.Lock()


def start(
    name: str, run: Callable[[], object], stop: Callable[[], object], network: bool = False, background: bool = False
) -> threading.Thread:
    """Starts a daemon thread; ``stop`` must make ``run`` return soon, and may be called at any time from any thread.

    ``network`` says that it waits for the network alone and holds no compiled code's frames.  ``background`` work
    is not to be felt: it has a low priority where the system knows one for a thread, and half of the cores.
    """

    def whole() -> None:
        try:
            if background:
                _here.background = True
                _step_back()
            run()
        finally:
            with _lock:
                _running.pop(thread, None)

    thread = threading.Thread(target=whole, name=f"luna_dt {name}", daemon=True)
    with _lock:
        _running[thread] = stop, network
    thread.start()
    return thread


def cores() -> int:
    """How many cores the calling thread may keep busy."""
    every = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, every // 2) if getattr(_here, "background", False) else every


def _step_back() -> None:
    """Lowers the calling thread's priority; on Linux also that of those it starts."""
    if sys.platform == "linux":  # where a thread has one of its own, which POSIX does not know
        with contextlib.suppress(OSError):  # it is lower already, and may not be raised
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    elif sys.platform == "win32":
        import ctypes

        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetCurrentThread.restype = ctypes.c_void_p
        kernel32.SetThreadPriority(ctypes.c_void_p(kernel32.GetCurrentThread()), BELOW_NORMAL)


@atexit.register
def _stop_all() -> None:
    with _lock:
        ours = dict(_running)
    for stop, _ in ours.values():
        stop()
    deadline = time.monotonic() + EXIT_TIMEOUT
    for thread, (_, network) in ours.items():
        thread.join(max(0.0, deadline - time.monotonic()) if network else None)
