"""Any catalog served as the REST contract: guard (who may ask, and how much), answers (bodies, problems), files
(pictures), app (the routes), run (its process)."""

from __future__ import annotations

from ..errors import MissingExtra

try:
    import fastapi  # noqa: F401
except ImportError as missing:
    raise MissingExtra("fastapi", "server") from missing
