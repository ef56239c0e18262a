"""A node's contact with DT: within one budget of time, and left at once when the user interrupts.

What is asked of DT is asked in a thread of its own, which is left behind where it takes too long; it ends by the
library's own time limit.  What goes on in the background (the outbox, a sync) has no budget and waits as it likes.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from ..luna_dt import Catalog, Settings, threads
from ..luna_dt.dt import connect as connect_to
from ..luna_dt.errors import LunaError, Unreachable

T = TypeVar("T")

BUDGET = 5.0  # seconds for which one run of a node waits for DT, all calls together
QUICK = 0.5  # seconds; what is answered within costs nothing, or many pictures of a DT that is well would not come
SILENCE = 60.0  # seconds for which a DT that was found away is not asked again
LOOK = 0.1  # seconds between two looks at the interruption

found_away: dict[str, float] = {}  # by address: when
_here = threading.local()


class Left(Unreachable):
    """DT was no longer waited for, through no fault of its own."""


class _Budget:
    """What one run of a node has left to wait for DT, and what it looks at meanwhile."""

    def __init__(self, heed: Callable[[], object]) -> None:
        self.left, self.heed = BUDGET, heed


@contextmanager
def within(heed: Callable[[], object]) -> Iterator[None]:
    """What this thread asks of DT inside has one budget; ``heed`` is called while it waits, and may raise to end that."""
    before = getattr(_here, "budget", None)
    _here.budget = _Budget(heed)
    try:
        yield
    finally:
        _here.budget = before


def apart(call: Callable[[], T], heed: Callable[[], object], seconds: float = float("inf")) -> T:
    """What a call gives that is made in a thread of its own; raises what it raises, what ``heed`` raises, and
    TimeoutError: then the thread is left behind."""
    answer: list[tuple[T | None, BaseException | None]] = []
    ended = threading.Event()

    def ask() -> None:
        try:
            answer.append((call(), None))
        except BaseException as error:  # noqa: BLE001  it is raised where the answer is waited for
            answer.append((None, error))
        ended.set()

    threads.start("asks DT", ask, lambda: None, network=True)
    deadline = time.monotonic() + seconds
    while not ended.wait(max(0.0, min(LOOK, deadline - time.monotonic()))):
        heed()
        if time.monotonic() >= deadline:
            raise TimeoutError
    given, error = answer[0]
    if error is not None:
        raise error
    return cast("T", given)


def connect(settings: Settings) -> Catalog:
    """The catalog at the settings' address, watched over."""
    return cast("Catalog", _Watched(connect_to(settings), settings.shown_dt))


def ask_anew(address: str) -> None:
    """Forgets that DT was found away: the next call asks it."""
    found_away.pop(address, None)


class _Watched:
    """A catalog whose calls keep to the budget of the thread they come from."""

    def __init__(self, catalog: Catalog, shown_dt: str) -> None:
        self._catalog, self._shown_dt = catalog, shown_dt

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._catalog, name)
        if not callable(found) or name == "close":
            return found
        return functools.partial(_asked, self._shown_dt, found, name != "similar")


def _asked(address: str, call: Callable[..., T], tells: bool, *arguments: Any, **options: Any) -> T:
    """One call; ``tells`` whether taking long tells that DT is away: a search may load a model first."""
    budget: _Budget | None = getattr(_here, "budget", None)
    asked = functools.partial(call, *arguments, **options)
    if budget is None:
        return asked()
    silent = SILENCE - (time.monotonic() - found_away.get(address, float("-inf")))
    if silent > 0:
        raise Unreachable(
            f"DT at {address} did not answer {SILENCE - silent:.0f} s ago and is asked again in {silent:.0f} s, or at "
            "once by the node Luna DT Connection Status"
        )
    slow = Unreachable(f"DT at {address} is slow: the {BUDGET:g} s for which a node waits for it are over")
    if budget.left <= 0:
        raise slow
    start, allowed = time.monotonic(), budget.left
    try:
        answer = apart(asked, budget.heed, allowed)
    except TimeoutError as error:
        budget.left = 0.0
        if allowed < BUDGET / 2:  # which it has used up by other answers
            raise slow from error
        if tells:
            found_away[address] = time.monotonic()
        raise Unreachable(
            f"DT at {address} does not answer (not within {allowed:.1g} s); is its server running?"
        ) from error
    except Left:
        raise
    except Unreachable:
        if tells:
            found_away[address] = time.monotonic()
        raise
    except LunaError:  # which is an answer
        ask_anew(address)
        raise
    finally:
        taken = time.monotonic() - start
        budget.left -= taken if taken > QUICK else 0.0
    ask_anew(address)
    return answer
