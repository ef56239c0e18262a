"""Pictures as the page is shown them: small ones, whole ones, and those that it sent to search by."""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict

from ..errors import BadInput, BadPicture, LunaError, PictureMissing, Unreachable
from ..library import Library
from ..paths import local_path, on_disk
from ..pixels import FORMATS, Picture, read_pictures
from ..records import content_digest
from ..thumbnails import webp

#: Seconds for which a DT that was found away is asked for no other small picture, since each would wait for it.
AWAY_FOR = 10.0
THUMBNAILS_BYTES = 96 << 20  # of small pictures whose files only DT has
ACROSS, LOOKED_AT = 2, 12  # pictures across what stands for a cluster; that are looked at for it
SENT_PICTURES, SENT_BYTES = 16, 256 << 20  # that are kept to be searched by
QUALITY = 78  # WebP's; some 10 kB for 256 pixels
#: What every browser shows as it is, by Pillow's names.
SHOWN = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class _Kept:
    """Bytes by their names, up to a limit; what was asked for longest ago makes room."""

    def __init__(self, most_bytes: int, most: int = 1 << 30) -> None:
        self._most_bytes, self._most, self._bytes = most_bytes, most, 0
        self._held: OrderedDict[object, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: object) -> bytes | None:
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
            return self._held.get(name)

    def put(self, name: object, data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._held.pop(name, b""))
            self._held[name] = data
            while len(self._held) > 1 and (self._bytes > self._most_bytes or len(self._held) > self._most):
                self._bytes -= len(self._held.popitem(last=False)[1])


class Sights:
    """What the page shows of pictures."""

    def __init__(self) -> None:
        self._small = _Kept(THUMBNAILS_BYTES)
        self._sent = _Kept(SENT_BYTES, SENT_PICTURES)
        self._away = float("-inf"), ""  # when a DT was last found away, and what it is like

    def thumbnail(self, library: Library, image_id: int, size: int) -> bytes:
        """An image's picture, small, as WebP: kept on disk where its file is here, else in memory.

        Raises as Library.picture.
        """
        record = library.image(image_id)
        stamp = library.stamp(record.id)
        try:
            path = on_disk(local_path(record.path, library.settings.path_map))
            return library.thumbnails.get(path, size, stamp)
        except (PictureMissing, BadPicture, OSError):  # not here, or another kind of file: DT may have it
            pass
        name = (image_id, size, stamp)
        found = self._small.get(name)
        if found is None:
            picture = self._from_dt(library, image_id)
            picture.thumbnail((size, size), reducing_gap=2.0)
            found = webp(picture, QUALITY)
            self._small.put(name, found)
        return found

    def cluster(self, library: Library, cluster_id: int, size: int, veil: bool) -> bytes:
        """A cluster's surest pictures, up to four in a square, as WebP; with ``veil`` what is NSFW is blurred.

        Raises UnknownCluster; PictureMissing where none of those that were tried can be shown.
        """
        from PIL import Image, ImageFilter, ImageOps

        name = ("cluster", cluster_id, size, veil, library.fingerprint("clusters", "images"))
        found = self._small.get(name)
        if found is None:
            tiles, trouble = [], ""
            for member in library.cluster_images(cluster_id, LOOKED_AT, sort="confidence"):
                try:
                    tile = read_pictures(self.thumbnail(library, member.image.id, size))[0]
                except LunaError as error:
                    trouble = str(error)
                    continue
                tiles.append(tile.filter(ImageFilter.GaussianBlur(size / 16)) if veil and member.image.nsfw else tile)
                if len(tiles) == ACROSS**2:
                    break
            if not tiles:
                raise PictureMissing(f"no picture of cluster {cluster_id} can be shown{trouble and ': ' + trouble}")
            across = ACROSS if len(tiles) == ACROSS**2 else 1
            sheet, side = Image.new("RGB", (size, size)), size // across
            for place, tile in enumerate(tiles[: across**2]):
                sheet.paste(ImageOps.fit(tile, (side, side)), (place % across * side, place // across * side))
            found = webp(sheet, QUALITY)
            self._small.put(name, found)
        return found

    def _from_dt(self, library: Library, image_id: int) -> Picture:
        when, said = self._away
        if time.monotonic() - when < AWAY_FOR:
            raise PictureMissing(f"image {image_id} is not on this machine, and {said}") from Unreachable(said)
        try:
            return library.picture(image_id)
        except PictureMissing as error:
            if isinstance(error.__cause__, Unreachable):
                self._away = time.monotonic(), str(error.__cause__)
            raise

    def whole(self, data: bytes) -> tuple[bytes, str]:
        """A picture's file and its type, made WebP where browsers do not show it; raises BadPicture."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as seen:
                form = SHOWN.get(seen.format or "")
        except Exception:  # noqa: BLE001 - decoders fail in many ways; below it is said which
            form = None
        if form:
            return data, form
        return webp(read_pictures(data)[0], 90), "image/webp"

    def take(self, data: bytes) -> str:
        """Keeps a picture to be searched by, for now, and gives its name; raises BadPicture."""
        read_pictures(data)
        name = f"{content_digest(data) % 2**64:016x}"
        self._sent.put(name, data)
        return name

    def sent(self, name: str) -> bytes:
        """The picture of that name; raises BadInput where it is kept no longer."""
        found = self._sent.get(name)
        if found is None:
            raise BadInput("that picture is not kept any more; drop or paste it again")
        return found
