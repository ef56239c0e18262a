"""What every index answers, and what every engine can do; all that is above ``index/`` knows only this.

Rows are positions in a layer's vectors file, which never change their content; an index is therefore
said by one number, how many rows from the start it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from ..records import Float32s, Int64s


class Index(Protocol):
    """Finds the rows nearest to a query by cosine similarity; never changed while it is in use."""

    engine: str
    rows: int

    def query(self, vector: Float32s, k: int) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest rows and their cosine, best first; fewer if there are, or it reaches, fewer.

        ``vector``: float32[dim], of any length but zero.  Raises BadVector.
        """
        ...


class Engine(Protocol):
    """Makes, writes and reads indexes of one form; shelf.py keeps them, engines.py chooses among them."""

    name: str
    suffix: str
    parameters: Mapping[str, int]

    def installed(self) -> bool:
        """Whether what it needs can be imported."""
        ...

    def build(
        self,
        vectors: Float32s,
        start: Index | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Index | None:
        """An index over all ``vectors``; ``start`` (which must not be in use any more) is extended.

        ``stop`` is asked every second or so and gives None; ``progress`` hears how many rows are in.
        Raises BadVector for a row that no query may meet, MissingExtra.
        """
        ...

    def write(self, index: Index, file: Path) -> int:
        """Writes an index and gives the bytes that must be there if the disk took all of it."""
        ...

    def read(self, file: Path, dim: int, rows: int) -> Index:
        """An index as it was written; the file has been checked.  Raises IndexDamaged."""
        ...
