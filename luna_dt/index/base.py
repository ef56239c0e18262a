"""What every engine answers.

Rows are positions in a layer's vectors file, which never change their content; an index is therefore
said by one number, how many rows from the start it covers.
"""

from __future__ import annotations

from typing import Protocol

from ..records import Float32s, Int64s


class Index(Protocol):
    """Finds the rows nearest to a query by cosine similarity."""

    engine: str
    rows: int

    def query(self, vector: Float32s, k: int) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest rows (fewer if there are fewer) and their cosine, best first.

        ``vector``: float32[dim], of any length but zero.  Raises BadVector.
        """
        ...
