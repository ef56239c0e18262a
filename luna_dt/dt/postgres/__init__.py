"""The LUNA fork's PostgreSQL database, read directly and never written.

The address is libpq's with one addition, ``?schema=NAME`` for the collection (default ``public``).
"""

from __future__ import annotations

from ...errors import MissingExtra

try:
    import psycopg  # noqa: F401
    import psycopg_pool  # noqa: F401
except ImportError as missing:
    raise MissingExtra("psycopg", "postgres") from missing

from .catalog import PostgresCatalog
from .columns import LAYER_COLUMNS

__all__ = ["LAYER_COLUMNS", "PostgresCatalog"]
