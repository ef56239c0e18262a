"""What maps are made of: an image of DT, or any picture; known by a digest of its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, BadPicture, PictureMissing
from ..mirror.pictures import Pictures
from ..pixels import Picture, PictureLike, read_pictures
from ..records import ImageRecord, content_digest
from ..store import Store


@dataclass(frozen=True)
class Source:
    """What maps are made of: the ``digest`` of its content, how to open it, and if it is DT's its id, and whether
    it is ``unchanged`` since."""

    digest: int
    open: Callable[[], Picture]
    name: str
    image_id: int | None = None
    unchanged: Callable[[], bool] = lambda: True


def of_image(record: ImageRecord, store: Store, pictures: Pictures) -> Source:
    """An image of DT; its file is read only if it was not since it last changed."""
    name, held = f"image {record.id}", list[bytes]()

    def opened() -> Picture:
        return read_pictures(held.pop() if held else pictures.file(record.id), name)[0]

    stamp = pictures.stamp(record)
    digest = store.content(record.id, stamp)
    if digest is None:
        try:
            held.append(pictures.file(record.id))
            digest = content_digest(held[0])
            if stamp:
                store.put_files([(record.id, stamp, digest)])
        except PictureMissing:  # what was made of it last, or DT's map of it, may be there all the same
            digest = store.content(record.id) or unseen_digest(record)
    return Source(digest, opened, name, record.id, lambda: pictures.stamp(record) == stamp)


def of_picture(image: PictureLike) -> Source:
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


def unseen_digest(record: ImageRecord) -> int:
    """What an image is known by whose picture cannot be read."""
    return content_digest(f"{record.id} {record.path}".encode())
