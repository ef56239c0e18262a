"""Pictures: images' own, from DT's path (through the path map), else from DT; and what a picture is known by."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import files
from ..dt.catalog import Catalog
from ..errors import BadInput, BadPicture, CatalogError, LunaError, NotFound, PictureMissing
from ..paths import local_path, on_disk, picture_file
from ..pixels import Picture, PictureLike, read_pictures, unread
from ..records import ImageRecord, content_digest, unseen_digest
from ..store import Store
from .lookups import Lookups

log = logging.getLogger(__name__)

SHAPE = 0.02  # by which share a shape may differ, as where sides were rounded to 64


@dataclass(frozen=True)
class Source:
    """What maps are made of: the ``digest`` of its content, how to open it, and if it is DT's its id, and whether
    it is ``unchanged`` since."""

    digest: int
    open: Callable[[], Picture]
    name: str
    image_id: int | None = None
    unchanged: Callable[[], bool] = lambda: True


class Pictures:
    """The pictures of a library's images, wherever they are to be had."""

    def __init__(
        self,
        store: Store,
        lookups: Lookups,
        catalog: Callable[[], Catalog],
        path_map: Callable[[], Mapping[str, str]],
    ) -> None:
        self._store, self._lookups, self._catalog, self._path_map = store, lookups, catalog, path_map

    def file(self, image_id: int) -> bytes:
        record = self._lookups.image(image_id)
        tried = []
        try:
            data = picture_file(record.path, self._path_map())
            if not (otherwise := _seems_another(data, record)) or self._is_what_dt_read(image_id, data):
                return data
            tried.append(f"{record.path} is another picture here: {otherwise}")
        except (PictureMissing, OSError) as error:
            tried.append(str(error))
        try:
            return self._catalog().file(image_id)
        except (CatalogError, NotFound) as error:
            tried.append(str(error))
            raise PictureMissing(f"image {image_id} could not be opened: {'; '.join(tried)}") from error

    def _is_what_dt_read(self, image_id: int, data: bytes) -> bool:
        """Whether DT noted the hash of these bytes: then they are its picture, however their text was understood."""
        with contextlib.suppress(LunaError):  # DT may be away
            return bool(self._catalog().as_read(image_id, data))
        return False

    def picture(self, image_id: int) -> Picture:
        return read_pictures(self.file(image_id), f"image {image_id}")[0]

    def each(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Picture | None, str]]:
        for image_id in image_ids:
            try:
                yield image_id, self.picture(image_id), ""
            except LunaError as error:
                log.warning("%s", error)
                yield image_id, None, str(error)

    def stamp(self, record: ImageRecord) -> str:
        """Changes when an image's file does: its size and time, or DT's record where the file is not to be reached.

        "" where neither is known here.
        """
        try:
            return files.stamp(on_disk(local_path(record.path, self._path_map())))
        except (PictureMissing, OSError):
            version = self._store.version_of(record.id)
            return f"dt {version}" if version else ""

    def source(self, image_id: int) -> Source:
        """An image as what maps are made of; its file is read only if it was not since it last changed."""
        record, name, held = self._lookups.image(image_id), f"image {image_id}", list[bytes]()

        def opened() -> Picture:
            return read_pictures(held.pop() if held else self.file(image_id), name)[0]

        stamp = self.stamp(record)
        digest = self._store.content(image_id, stamp)
        if digest is None:
            try:
                held.append(self.file(image_id))
                digest = content_digest(held[0])
                if stamp:
                    self._store.put_files([(image_id, stamp, digest)])
            except PictureMissing:  # what was made of it last, or DT's map of it, may be there all the same
                digest = self._store.content(image_id) or unseen_digest(record.id, record.path)
        return Source(digest, opened, name, image_id, lambda: self.stamp(record) == stamp)


def _seems_another(data: bytes, record: ImageRecord) -> str:
    """By what a file under an image's path is another picture than DT's; "" where nothing says so.

    Every ComfyUI has made a ComfyUI_00001_.png.  What the file says of its making decides; where it says nothing its size
    does, in which only the shape counts, since DT notes the size that a picture was made in before it was enlarged.
    """
    try:
        with unread(io.BytesIO(data)) as opened:
            width, height, info = *opened.size, opened.info
    except Exception:  # noqa: BLE001 - decoders fail in many ways, and whoever reads it says so
        return ""
    words = [value for value in info.values() if isinstance(value, str)]
    exif = info.get("exif") or b""
    words += [exif.decode(form, "ignore") for form in ("latin-1", "utf-16-le", "utf-16-be")] if exif else []
    told = "\n".join(words)
    known = [str(record.seed), str(record.seed % 2**64)] if record.seed else []
    known += [record.prompt[:60], json.dumps(record.prompt[:60])[1:-1]] if record.prompt else []
    if known and "seed" in told.lower():
        return "" if any(each in told for each in known) else "it was made with another prompt and seed"
    if record.width > 0 and record.height > 0:
        shapes = {record.width / record.height, record.height / record.width}
        if all(abs(width / height / shape - 1) > SHAPE for shape in shapes):
            return f"it has {width}x{height} pixels, DT's {record.width}x{record.height}"
    return ""


def source_of(image: PictureLike) -> Source:
    """A picture that is not DT's: a file by its bytes, which are not decoded until a map must be made."""
    if isinstance(image, (str, os.PathLike)):
        try:
            data, name = Path(image).read_bytes(), str(image)
        except OSError as error:
            raise BadPicture(f"{image}: {error.strerror or error}") from error
    elif isinstance(image, (bytes, bytearray, memoryview)):
        data, name = bytes(image), "the given picture"
    else:
        given = read_pictures(image)
        if len(given) != 1:
            raise BadInput(f"a map is made of one picture, not of a batch of {len(given)}")
        digest = content_digest(given[0].tobytes(), f"{given[0].size}".encode())
        return Source(digest, lambda: given[0], "the given picture")
    return Source(content_digest(data), lambda: read_pictures(data, name)[0], name)
