"""What flows between DT, the store and the caller: plain values, no input or output."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import BadAnswer, BadInput, BadVector, UnknownLayer, WrongDimension
from .identity import DT_IDENTITIES, Identity
from .plain import checked_json

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

Alike = Literal["seed", "file"]  # prompt and seed, or the file, that images have in common

LAYERS = tuple(DT_IDENTITIES)
RECORD_KINDS = ("images", "captions", "clusters")
#: ImageRecord's fields that are true or false, which SQLite gives as numbers.
FLAGS = ("favorite", "nsfw", "for_deletion", "unavailable", "no_metadata")
EMBEDDINGS = "embeddings."


def content_digest(content: bytes, form: bytes = b"") -> int:
    """What some content, of a certain form, is known by here: 64 bits of its BLAKE2b, signed."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=form).digest(), "little", signed=True)


def unseen_digest(image_id: int, path: str) -> int:
    """What an image is known by whose picture cannot be read."""
    return content_digest(f"{image_id} {path}".encode())


def now(timespec: str = "seconds") -> str:
    """The time as it is stored everywhere: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec=timespec)


def layer_of(kind: str) -> str | None:
    """The layer a sync kind such as ``embeddings.visual`` carries; None for kinds of records."""
    return kind.removeprefix(EMBEDDINGS) if kind.startswith(EMBEDDINGS) else None


def checked_layer(layer: str) -> str:
    """The name of a layer as it is; raises UnknownLayer, naming those there are."""
    if layer not in LAYERS:
        raise UnknownLayer(f"there is no layer '{layer}'; layers are: {', '.join(LAYERS)}")
    return layer


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One part of a weighted query: a reference, the layer it is compared in, and how much that counts.

    An image's similarity is the sum of weight times cosine over the terms, divided by the sum of the weights'
    sizes, so -1..1; where it has no vector in a term's layer that cosine counts as 0, and images without any of
    them are not found.  Several terms are never asked of DT.

    Give one of ``image``, ``image_id``, ``vector`` (with the ``identity`` that made it, if known) and ``text``, as
    to ``Library.search``; a negative ``weight`` looks away from it.
    """

    image: Any = None
    image_id: int | None = None
    vector: Any = None
    text: str | None = None
    layer: str = "visual"
    weight: float = 1.0
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image as DT knows it.

    ``rating`` is 1..10 or None; dates are ISO 8601 without zone, as DT writes them; ``path`` is DT's
    own (often a Windows path), see ``paths.local_path``.  ``hash`` is equal for equal files, as they were when DT read
    them: their SHA-256 where it is DT's, in small hexadecimal digits; "" where none was noted.
    """

    id: int
    path: str
    prompt: str = ""
    negative_prompt: str = ""
    width: int = 0
    height: int = 0
    model: str = ""
    model_hash: str = ""
    sampler: str = ""
    scheduler: str = ""
    steps: int = 0
    cfg: float = 0.0
    seed: int = 0
    rating: int | None = None
    aesthetic_score: float | None = None
    favorite: bool = False
    nsfw: bool = False
    for_deletion: bool = False
    unavailable: bool = False
    no_metadata: bool = False
    created: str = ""
    custom_tags: str = ""
    loras: str = ""
    tags: tuple[str, ...] = ()
    hash: str = ""

    @property
    def quality(self) -> float:
        """0..5, DT's rating halved; 0 when unrated."""
        return (self.rating or 0) / 2

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["tags"] = list(self.tags)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageRecord:
        """Reads a contract image: unknown fields are ignored, absent or null ones take their default."""
        known: dict[str, Any] = {}
        for name, convert in _IMAGE_FIELDS.items():
            given = value.get(name)
            try:
                if given is not None or name == "id":
                    known[name] = convert(given)
            except (TypeError, ValueError, OverflowError) as error:
                raise BadAnswer(f"an image from DT cannot be read: its {name} is not what it should be") from error
        if "path" not in value:
            raise BadAnswer("an image from DT cannot be read: it has no path")
        known.setdefault("path", "")
        return cls(**known)


def image_of(columns: Sequence[Any], tags: tuple[str, ...] = ()) -> ImageRecord:
    """An image by its fields but the tags, in their order, as a database has them."""
    return ImageRecord(*[*columns[:-1], tags, columns[-1]])


def _text(value: Any) -> str:
    """Text as DT means it; a structure (loras may come as JSON) keeps its JSON form."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def file_hash(value: Any) -> str:
    """A file's hash as it is kept, in small hexadecimal digits; "" for what is none, a number of fewer than 128 bits among it."""
    return value.lower() if isinstance(value, str) and re.fullmatch("[0-9A-Fa-f]{32,128}", value) else ""


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _seed(value: Any) -> int:
    """As DT keeps it, in 64 bits with a sign, where ComfyUI's have none."""
    seed = _whole(value)
    return seed - 2**64 if 2**63 <= seed < 2**64 else seed


_ZONED = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:]{8})(?:\.[0-9]*)?\s*(?:Z|([+-])([0-9]{2}):?([0-9]{2})?)", re.IGNORECASE
)


def _date(value: Any) -> str:
    """A time without zone, as DT writes it; of one that has a zone, what the clock showed here; "" for what is none."""
    text = value.strip() if isinstance(value, str) else ""
    if found := _ZONED.fullmatch(text):
        time, sign, hours, minutes = found.groups()
        try:
            there = datetime.fromisoformat(f"{time}{sign or '+'}{hours or '00'}:{minutes or '00'}")
            return there.astimezone().replace(tzinfo=None).isoformat(timespec="seconds")
        except (ValueError, OverflowError, OSError):
            return ""
    return text if re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else ""


def _flag(value: Any) -> bool:
    if value not in (False, True):
        raise ValueError(value)
    return bool(value)


def _list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(value)
    return tuple(value)


_IMAGE_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _whole, "path": str, "prompt": _text, "negative_prompt": _text, "width": _whole, "height": _whole, "model": _text,
    "model_hash": _text, "sampler": _text, "scheduler": _text, "steps": _whole, "cfg": float, "seed": _seed, "rating": _whole,
    "aesthetic_score": float, "favorite": _flag, "nsfw": _flag, "for_deletion": _flag, "unavailable": _flag,
    "no_metadata": _flag, "created": _date, "custom_tags": _text, "loras": _text, "tags": _list,
    "hash": file_hash,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredMap:
    """A ControlNet map that DT has: encoded as a picture (``data``), or where DT says its file is (``path``).

    ``keypoints`` is OpenPose's JSON object, where there is one.
    """

    data: bytes = b""
    path: str = ""
    keypoints: dict[str, Any] | None = None


MAX_KEYPOINTS = 1 << 20  # bytes as JSON; a person in OpenPose's has some 2,000


def checked_keypoints(found: Any) -> dict[str, Any] | None:
    """OpenPose's JSON object as somebody sent it, if it can be stored and sent on; raises BadInput."""
    if found is None:
        return None
    if not isinstance(found, dict) or len(checked_json(found, "keypoints").encode()) > MAX_KEYPOINTS:
        raise BadInput(f"keypoints are a JSON object of at most {MAX_KEYPOINTS:,} bytes")
    return found


@dataclass(frozen=True, slots=True)
class Captions:
    """An image's captions and tags: comma-separated strings, "" when absent.

    ``combined`` is every tag once, most certain first, then the latest caption; ``tags`` the tags alone.
    """

    image_id: int
    wd14_tags: str = ""
    joytag_tags: str = ""
    joycaption: str = ""
    combined: str = ""
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["tags"] = list(self.tags)
        return value

    @classmethod
    def of_tags(cls, image_id: int, tags: Iterable[str]) -> Captions:
        """Those of an image of which nothing but tags is known."""
        every = tuple(tags)
        return cls(image_id, combined=", ".join(every), tags=every)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], image_id: int) -> Captions:
        wd14, joytag, caption, combined = (
            str(value.get(name) or "") for name in ("wd14_tags", "joytag_tags", "joycaption", "combined")
        )
        try:
            return cls(image_id, wd14, joytag, caption, combined, _list(value.get("tags") or ()))
        except TypeError as error:
            raise BadAnswer("captions from DT cannot be read: their tags are no list") from error


@dataclass(frozen=True, slots=True)
class Member:
    """An image's place in a cluster: ``confidence``, 0..1, of its best face there."""

    image_id: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """A person or character DT has grouped by face; ``members`` only where they were asked for."""

    id: int
    name: str
    image_count: int
    members: tuple[Member, ...] = ()

    @property
    def label(self) -> str:
        """As it is chosen from a list: without the number of images, which changes, so that one that was kept stays."""
        return f"{self.id}: {self.name or 'unnamed'}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cluster:
        try:
            count = value.get("image_count", value.get("member_count", 0))
            members = tuple(Member(m["image_id"], m["confidence"]) for m in value.get("members") or ())
            return cls(int(value["id"]), str(value.get("name") or ""), int(count or 0), members)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadAnswer(
                "a cluster from DT cannot be read: its id, count or members are not what they should be"
            ) from error


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search: ``similarity`` is the cosine, -1..1; it ``stands_for`` so many that were collapsed."""

    id: int
    similarity: float
    image: ImageRecord
    stands_for: int = 1

    @property
    def caption(self) -> str:
        """The line that stands below its picture."""
        more = f"   and {self.stands_for - 1} like it" if self.stands_for > 1 else ""
        return f"{self.similarity:.3f}   id {self.id}{more}"

    def to_json(self) -> dict[str, Any]:
        """The contract's form; ``stands_for`` only where that is more than one."""
        more = {"stands_for": self.stands_for} if self.stands_for > 1 else {}
        return {"similarity": self.similarity, **more, **self.image.to_json()}


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Images that are copies of each other, by id: ``exact`` ones, whose files have one hash, or near ones; ``similarity``
    is the least cosine to the first of them."""

    ids: tuple[int, ...]
    similarity: float
    exact: bool = False


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """One image of a cluster, with how sure DT is of it (0..1)."""

    image: ImageRecord
    confidence: float

    def to_json(self) -> dict[str, Any]:
        return {**self.image.to_json(), "confidence": self.confidence, "quality": self.image.quality}


@dataclass(frozen=True, slots=True)
class Kind:
    """Something that can be mirrored: images, captions, clusters, or ``embeddings.LAYER`` with its identity; ``local`` where
    luna_dt made it, and DT knows nothing of it."""

    name: str
    count: int
    identity: Identity | None = None
    local: bool = False

    @property
    def layer(self) -> str | None:
        return layer_of(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some rows of one kind: ids int64[n], digests int64[n], and n records or vectors float32[n, dim].

    ``aside`` says of others, by id, why they cannot be read or kept.
    """

    ids: Int64s
    digests: Int64s
    rows: list[ImageRecord] | list[Captions] | list[Cluster] | Float32s = field(repr=False)
    aside: Mapping[int, str] = field(default_factory=dict)


def checked_vectors(vectors: Any, dim: int, name: str = "the query vector", ndim: int = 1) -> Float32s:
    """``vectors`` as C-contiguous float32, [dim] or with ``ndim`` 2 [n, dim]; raises BadVector, saying why not.

    Engines take NaN, infinite and zero vectors without a word and answer nonsense, and hnswlib reads
    past the end of one that is too short; so everything passes here first.
    """
    try:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadVector(f"{name} is not made of numbers: {error}") from error
    if array.ndim != ndim or array.shape[-1] != dim:
        wrong = WrongDimension if array.ndim == ndim else BadVector
        raise wrong(f"{name} has shape {list(array.shape)}; this layer's vectors have {dim} dimensions")
    # a sum of squares is finite and positive exactly when no row is NaN, infinite, overflowing or zero
    squares = np.einsum("...i,...i->...", array, array)
    good = np.isfinite(squares) & (squares > 0)
    if not good.all():
        which = "" if ndim == 1 else f" (row {int(np.argmin(good))} of {len(array)})"
        raise BadVector(f"{name}{which} is zero, or holds NaN, infinite or far too large values")
    return array


def one_of(given: dict[str, Any]) -> None:
    """Raises BadInput unless exactly one of the ways to give a reference is used."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        *ways, last = given
        raise BadInput(f"give one of {', '.join(ways)} and {last}, not {' and '.join(names) or 'none'}")
