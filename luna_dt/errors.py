"""Every error this package raises on purpose.

LunaError
 ├─ SettingsError            a setting is missing or makes no sense
 │   ├─ MissingExtra         a part that is not installed is needed
 │   └─ NotAllowed           an address that the user has not allowed
 ├─ BadInput                 what was given cannot be used (also a ValueError)
 │   ├─ BadPicture           not a picture, broken, or over a limit
 │   ├─ BadVector            wrong shape, NaN, infinite or zero
 │   │   └─ WrongDimension   a vector that does not have the layer's dimension
 │   └─ BadQuery             a query in DT's language that cannot be read
 ├─ NotFound                 (also a LookupError)
 │   ├─ UnknownImage
 │   ├─ UnknownCluster
 │   ├─ UnknownLayer
 │   ├─ PictureMissing       DT names a file that is not to be found from here
 │   └─ MapMissing           no ControlNet map of this type is stored for the image
 ├─ NotSearchable            the layer holds nothing to compare with yet
 │   └─ NoVector             this image has no vector in the layer
 ├─ IdentityMismatch         query and layer were made by different encoders
 ├─ WeightsError             model weights are missing, damaged or of another model
 ├─ OutOfMemory              the device has no room for a model, or for one picture at a time
 ├─ StoreError               the library on disk is damaged, newer than this program, or busy
 │   └─ IndexDamaged         an index file cannot be trusted (rebuilt by itself)
 └─ CatalogError             DT did not answer as hoped
     ├─ Unreachable          no connection, or none in time
     ├─ Refused              DT answered with an error; has ``http_status``
     ├─ BadAnswer            an answer that does not keep the contract
     ├─ AnotherWriter        another machine writes the library that they share
     ├─ AnotherDT            it is not the DT that this home belongs to, or has lost most of its images
     └─ NotOffered           this DT cannot do that

``code`` is stable and travels in the server's problem details and in ``--json`` output;
``http_status`` is what the server answers with.  Messages name the cause and the next step.
"""

from __future__ import annotations

import sys
from pathlib import Path


class LunaError(Exception):
    """Whatever this library cannot do, said for people: what happened, to what, and the next step; ``code`` is its name for
    programs (docs/troubleshooting.md), ``http_status`` what a server answers with."""

    code = "error"
    http_status = 500


class SettingsError(LunaError):
    code = "bad_settings"


class MissingExtra(SettingsError):
    code = "missing_extra"
    http_status = 501

    def __init__(self, what: str, extra: str) -> None:
        run = f'pip install "luna_dt[{extra}]"'
        installer = Path(__file__).parents[1] / "install.py"
        if extra == "maps" and installer.is_file():  # as a pack of ComfyUI, whose OpenCV must stay what it is
            run = f'"{sys.executable}" "{installer}"'
        super().__init__(f"{what} is not installed; run: {run}")


class NotAllowed(SettingsError):
    code = "not_allowed"
    http_status = 403


class BadInput(LunaError, ValueError):
    code = "bad_input"
    http_status = 422


class BadPicture(BadInput):
    code = "bad_picture"


class BadVector(BadInput):
    code = "bad_vector"


class WrongDimension(BadVector):
    code = "wrong_dimension"
    http_status = 409


class BadQuery(BadInput):
    """``at`` is the place in the ``query``, from 0, where what is wrong begins; None where it is all of it."""

    code = "bad_query"

    def __init__(self, message: str, at: int | None = None, query: str = "") -> None:
        super().__init__(message)
        self.at, self.query = at, query


class NotFound(LunaError, LookupError):
    code = "not_found"
    http_status = 404


class UnknownImage(NotFound):
    code = "unknown_image"


class UnknownCluster(NotFound):
    code = "unknown_cluster"


class UnknownLayer(NotFound):
    code = "unknown_layer"


class PictureMissing(NotFound):
    code = "picture_missing"


class MapMissing(NotFound):
    code = "map_missing"


class NotSearchable(LunaError):
    code = "not_searchable"
    http_status = 409


class NoVector(NotSearchable):
    code = "no_vector"


class IdentityMismatch(LunaError):
    code = "identity_mismatch"
    http_status = 409


class WeightsError(LunaError):
    code = "weights"
    http_status = 501


class OutOfMemory(LunaError):
    code = "out_of_memory"
    http_status = 503


class StoreError(LunaError):
    code = "store"


class IndexDamaged(StoreError):
    code = "index_damaged"


class CatalogError(LunaError):
    code = "dt"
    http_status = 503


class Unreachable(CatalogError):
    code = "dt_unreachable"


class Refused(CatalogError):
    code = "dt_refused"

    def __init__(self, message: str, http_status: int = 503) -> None:
        super().__init__(message)
        self.http_status = http_status


class BadAnswer(CatalogError):
    code = "dt_bad_answer"
    http_status = 502


class AnotherDT(CatalogError):
    code = "another_dt"
    http_status = 409


class AnotherWriter(CatalogError):
    code = "another_writer"
    http_status = 409


class NotOffered(CatalogError):
    code = "not_offered"
    http_status = 501


def by_code(code: str) -> type[LunaError] | None:
    """The class with this ``code``, so that an error crosses the wire with its type; None if unknown."""
    todo = [LunaError]
    while todo:
        found = todo.pop()
        if found.code == code and found is not MissingExtra:
            return found
        todo.extend(found.__subclasses__())
    return None
