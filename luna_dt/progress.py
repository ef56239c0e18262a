"""How work that takes long tells what it has done."""

from __future__ import annotations

from collections.abc import Callable

#: Hears (what is done, how much of it, of how much) as it goes on; may raise to stop the work.
Progress = Callable[[str, int, int], object]


def silent(_what: str, _done: int, _total: int) -> None:
    """Nobody wants to know."""
