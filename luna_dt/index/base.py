"""What every index answers, and what every engine can do; all that is above ``index/`` knows only this.

An engine sees *points*: a layer's vectors, each different one once (points.py).  What it makes is an index over the
points of a vectors file's first rows, which never change their content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..records import Float32s, Int64s
from .points import Points

Bools = npt.NDArray[np.bool_]


class Index(Protocol):
    """Finds the points nearest to a query by cosine similarity; never changed while it is in use."""

    def query(self, vector: Float32s, k: int, usable: Bools | None) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest points (fewer if it reaches fewer) of those that are ``usable``, and their cosine, best first.

        ``vector``: float32[dim], finite and not zero.
        """
        ...

    def widen(self) -> bool:
        """Searches wider from now on, slower and surer; False if it is as wide as can be."""
        ...


class Engine(Protocol):
    """Makes, writes and reads indexes of one form; shelf.py keeps them, engines.py chooses among them."""

    name: str
    suffix: str
    parameters: Mapping[str, int]
    mapped: bool  # whether an index that was read takes no memory of its own to speak of
    part: int  # points that take so long to add that an index is saved after so many more; 0 if none do

    def installed(self) -> bool:
        """Whether what it needs can be imported."""
        ...

    def build(
        self,
        vectors: Float32s,
        points: Points,
        start: Index | None,
        stop: Callable[[], bool],
        progress: Callable[[int], object],
    ) -> Index | None:
        """An index over all ``points`` of ``vectors``; ``start``, over the first of them, is extended or taken up.

        ``start`` must not be in use any more.  ``stop`` is asked every second or so and gives None; ``progress``
        hears how many points are in.  Raises BadVector for a row that no query may meet, MissingExtra.
        """
        ...

    def write(self, index: Index, file: Path) -> int:
        """Writes an index and gives the bytes that must be there if the disk took all of it."""
        ...

    def read(self, file: Path, vectors: Float32s, points: Points) -> Index:
        """An index as it was written; the file has been checked.  Raises IndexDamaged."""
        ...
