"""A picture's file, as an answer: of a known type, from where the database says it lies, in parts, and once."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from fastapi.responses import Response, StreamingResponse

from ..errors import PictureMissing
from ..thumbnails import Thumbnails, side_for
from .answers import problem

#: What is served, and as what; never what the machine's own list says, nor what a browser would run (SVG).
TYPES = {
    ".png": "image/png", ".apng": "image/apng", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".jpe": "image/jpeg",
    ".jfif": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif", ".bmp": "image/bmp", ".tif": "image/tiff",
    ".tiff": "image/tiff", ".avif": "image/avif", ".jxl": "image/jxl", ".heic": "image/heic", ".heif": "image/heif",
    ".jp2": "image/jp2", ".qoi": "image/qoi", ".ppm": "image/x-portable-pixmap", ".mp4": "video/mp4",
    ".m4v": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska", ".mov": "video/quicktime",
    ".avi": "video/x-msvideo", ".mpg": "video/mpeg", ".mpeg": "video/mpeg", ".wmv": "video/x-ms-wmv",
}  # fmt: skip
BYTES_SENT = 256 << 10  # bytes
RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


def served(path: Path, asked: Mapping[str, str]) -> Response:
    """The file at a path, or the one part of it that the request's headers ask for; 304 where the client has it.

    Raises PictureMissing for what is no picture's plain file, or leads out of the folder that the path names.
    """
    file = _opened(path)
    seen = os.fstat(file.fileno())
    told = _told(seen)
    tag = told["etag"]
    if _is_known(tag, asked):
        file.close()
        return Response(status_code=304, headers=told)
    told["accept-ranges"] = "bytes"
    part = RANGE.fullmatch(asked.get("range", "").strip())
    if part is None or asked.get("if-range", tag) != tag:
        first, end, status = 0, seen.st_size, 200
    else:
        first, end, status = *_part(part, seen.st_size), 206
        if first >= end:
            file.close()
            return problem(416, "no_such_part", f"there are {seen.st_size:,} bytes", {"content-range": f"bytes */{seen.st_size}"})  # fmt: skip
        told["content-range"] = f"bytes {first}-{end - 1}/{seen.st_size}"
    told["content-length"] = str(end - first)
    return StreamingResponse(_read(file, first, end), status, told, media_type=TYPES[path.suffix.lower()])


def small(path: Path, size: int, thumbnails: Thumbnails, asked: Mapping[str, str]) -> Response:
    """The thumbnail of the file at a path; 304 where the client has it.  Raises as ``served``, and BadPicture."""
    with _opened(path) as file:
        told = _told(os.fstat(file.fileno()), f"-{side_for(size)}")
        if _is_known(told["etag"], asked):
            return Response(status_code=304, headers=told)
        return Response(thumbnails.get(path, size, told["etag"], file), headers=told, media_type="image/webp")


def _told(seen: os.stat_result, more: str = "") -> dict[str, str]:
    return {
        "etag": f'"{seen.st_mtime_ns:x}-{seen.st_size:x}{more}"',
        "last-modified": formatdate(seen.st_mtime, usegmt=True),
        "cache-control": "private, no-cache",  # kept, but asked about: ratings change pictures' files, too
    }


def _is_known(tag: str, asked: Mapping[str, str]) -> bool:
    known = [each.strip().removeprefix("W/") for each in asked.get("if-none-match", "").split(",")]
    return tag in known or "*" in known


def _part(asked: re.Match[str], size: int) -> tuple[int, int]:
    """From which byte on, and up to which, without it."""
    if asked[3]:
        return max(0, size - int(asked[3])), size
    return int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size


def _opened(path: Path) -> BinaryIO:
    """A file, opened once and then looked at, so that nothing can be put in its place between the two."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        real = path.resolve(strict=True)
        if not {path.suffix.lower(), real.suffix.lower()} - TYPES.keys() and real.is_relative_to(path.parent.resolve()):
            flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
            file = os.fdopen(os.open(real, flags), "rb")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    raise PictureMissing("the file of this image is not to be found where the server runs, or is no picture")


def _read(file: BinaryIO, first: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        while first < end and (piece := file.read(min(BYTES_SENT, end - first))):
            first += len(piece)
            yield piece
