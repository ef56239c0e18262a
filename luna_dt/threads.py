"""Threads that end before the interpreter does, whoever forgets to close what started them.

The interpreter ends daemon threads wherever they are; one that is inside compiled code (hnswlib, torch) takes
the whole process down with it ("terminate called without an active exception").  So every thread of ours is
started here, and at exit each is told to stop and waited for.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable

#: Seconds for which threads that only wait for the network are waited for at exit, all together: ending them
#: there is harmless, and a server that does not answer must not keep a program from ending.
EXIT_TIMEOUT = 2.0

_running: dict[threading.Thread, tuple[Callable[[], object], bool]] = {}
_lock = threading.Lock()


def start(name: str, run: Callable[[], object], stop: Callable[[], object], network: bool = False) -> threading.Thread:
    """Starts a daemon thread; ``stop`` must make ``run`` return soon, and may be called at any time from any thread.

    ``network`` says that it waits for the network alone and holds no compiled code's frames.
    """

    def whole() -> None:
        try:
            run()
        finally:
            with _lock:
                _running.pop(thread, None)

    thread = threading.Thread(target=whole, name=f"luna_dt {name}", daemon=True)
    with _lock:
        _running[thread] = stop, network
    thread.start()
    return thread


@atexit.register
def _stop_all() -> None:
    with _lock:
        ours = dict(_running)
    for stop, _ in ours.values():
        stop()
    deadline = time.monotonic() + EXIT_TIMEOUT
    for thread, (_, network) in ours.items():
        thread.join(max(0.0, deadline - time.monotonic()) if network else None)
