"""What flows between DT, the store and the caller: plain values, no input or output."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import BadAnswer, BadInput, BadVector, UnknownLayer, WrongDimension

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

LAYERS = ("visual", "semantic", "negative", "composition", "style")
RECORD_KINDS = ("images", "captions", "clusters")
EMBEDDINGS = "embeddings."


def content_digest(content: bytes, form: bytes = b"") -> int:
    """What some content, of a certain form, is known by here: 64 bits of its BLAKE2b, signed."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=form).digest(), "little", signed=True)


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


PIXELS = ("squash", "crop", "squash bilinear", "crop bilinear")


@dataclass(frozen=True, slots=True)
class Identity:
    """What made a layer's vectors; two vectors can be compared only if their identities are equal.

    ``architecture`` and ``weights`` as open_clip names them (``ViT-H-14``, ``laion2b_s32b_b79k``), or a
    sentence-transformers repository and "".  ``output``: the tower's pooled vector before the
    projection, or the projected one.  ``pixels``: how a picture meets the tower's square input
    (aspect ratio squashed, or shortest side fitted and centre cropped; bicubic unless it says
    bilinear); "" for text towers.  ``variant``: "" for the model's own way, ``half`` for a forward pass
    in half precision, ``words`` for texts split into whole words, those that the vocabulary lacks
    being [UNK].
    """

    architecture: str
    weights: str
    tower: Literal["image", "text"]
    output: Literal["pooled", "projected"]
    pixels: Literal["squash", "crop", "squash bilinear", "crop bilinear", ""]
    dim: int
    normalized: bool = True
    variant: Literal["", "half", "words"] = ""

    @property
    def model(self) -> str:
        return f"{self.architecture}:{self.weights}" if self.weights else self.architecture

    @property
    def is_sentence(self) -> bool:
        """Whether a sentence-transformers repository made it, rather than a CLIP model."""
        return "/" in self.architecture

    def __str__(self) -> str:
        parts = (self.model, f"{self.tower} tower", self.output, self.pixels, f"{self.dim}-d", self.variant)
        return ", ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """The contract's form: model, tower, output, pixels, dim, normalized; and a variant, if it is one."""
        return {
            "model": self.model, "tower": self.tower, "output": self.output,
            "pixels": self.pixels, "dim": self.dim, "normalized": self.normalized,
            **({"variant": self.variant} if self.variant else {}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        """Reads the contract's form; raises BadAnswer when a field is missing or makes no sense."""
        try:
            architecture, _, weights = str(value["model"]).partition(":")
            tower, output = value["tower"], value["output"]
            pixels: Any = value.get("pixels") or ""
            dim, normalized = int(value["dim"]), bool(value.get("normalized", True))
            variant: Any = value.get("variant") or ""
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer(f"a layer's identity cannot be read ({error!r}): {value}") from error
        if tower not in ("image", "text") or output not in ("pooled", "projected"):
            raise BadAnswer(f"a layer's identity names an unknown tower or output: {value}")
        if pixels not in (*PIXELS, "") or variant not in ("", "half", "words") or dim < 1:
            raise BadAnswer(f"a layer's identity names unknown pixels, variant or dimension: {value}")
        return cls(architecture, weights, tower, output, pixels, dim, normalized, variant)


#: What DT is known to put into its layers (LUNA fork, read from its sources in early 2026).
DT_IDENTITIES = {
    "visual": Identity("ViT-H-14", "laion2b_s32b_b79k", "image", "pooled", "squash", 1280),
    "semantic": Identity("BAAI/bge-large-en-v1.5", "", "text", "pooled", "", 1024),
    "negative": Identity("BAAI/bge-large-en-v1.5", "", "text", "pooled", "", 1024),
    "composition": Identity("ViT-bigG-14", "sdxl", "text", "projected", "", 1280),
    "style": Identity("ViT-L-14", "sdxl", "text", "pooled", "", 768),
}

#: What a layer is made by when it is made here: pictures as a whole (squashed), in the space that texts share.
LOCAL_IDENTITIES = {
    **DT_IDENTITIES,
    "visual": Identity("ViT-H-14", "laion2b_s32b_b79k", "image", "projected", "squash", 1024),
    "composition": Identity("ViT-bigG-14", "laion2b_s39b_b160k", "image", "projected", "squash", 1280),
    "style": Identity("ViT-L-14", "openai", "image", "projected", "squash", 768),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying a layer found: ``checked`` stored vectors were made again and compared by cosine.

    ``result``: ``match`` (the layer is what it says), ``other`` (made in another known way, ``fits``),
    ``rows`` (``fits``, but the vectors of ``wrong``, first and last id of each run, are not their
    images'; where ``shift`` is not 0 they are those of the image so many places further on), or ``unknown``
    (nothing known fits).  ``mean``, ``worst`` and ``spread`` (standard deviation) are of the cosines by the
    layer's own claim, ``fit`` the mean by ``fits``; ``wrong_is_all`` says whether every wrong run was followed
    to its ends.  ``cosines`` are there only when just verified.
    """

    result: Literal["match", "other", "rows", "unknown"]
    claim: Identity
    fits: Identity | None
    checked: int
    mean: float
    worst: float
    spread: float
    fit: float
    wrong: tuple[tuple[int, int], ...] = ()
    shift: int = 0
    wrong_is_all: bool = True
    unreadable: int = 0
    when: str = ""
    cosines: tuple[float, ...] = field(default=(), repr=False, compare=False)

    @property
    def passed(self) -> bool:
        return self.result == "match"

    def __str__(self) -> str:
        if self.result == "match":
            return f"matches {self.claim}"
        if self.result == "other":
            return f"was made by {self.fits} (cosine {self.fit:.4f}), not by {self.claim} ({self.mean:.4f})"
        if self.result == "unknown":
            return f"matches neither {self.claim} (cosine {self.mean:.4f}) nor any known alternative ({self.fit:.4f})"
        runs = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in self.wrong)
        more = "" if self.wrong_is_all else " at least"
        where = f"; they belong to the image {abs(self.shift)} further {'on' if self.shift > 0 else 'back'}"
        return f"matches {self.fits}, but the stored vectors of images {runs}{more} are wrong" + (
            where if self.shift else ""
        )

    def to_json(self) -> dict[str, Any]:
        value = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cosines"}
        value["claim"], value["fits"] = self.claim.to_json(), self.fits and self.fits.to_json()
        return {**value, "says": str(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        known = {f.name: value[f.name] for f in fields(cls) if f.name != "cosines"}
        known["claim"] = Identity.from_json(known["claim"])
        known["fits"] = known["fits"] and Identity.from_json(known["fits"])
        known["wrong"] = tuple(map(tuple, known["wrong"]))
        return cls(**known)


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One part of a weighted query: a reference, the layer it is compared in, and how much that counts.

    Give one of ``image``, ``image_id``, ``vector`` and ``text``, as to ``Library.search``; a negative
    ``weight`` looks away from it.
    """

    image: Any = None
    image_id: int | None = None
    vector: Any = None
    text: str | None = None
    layer: str = "visual"
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image as DT knows it.

    ``rating`` is 1..10 or None; dates are ISO 8601 without zone, as DT writes them; ``path`` is DT's
    own (often a Windows path), see ``pixels.local_path``.
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
        try:
            known: dict[str, Any] = {"id": int(value["id"]), "path": str(value["path"] or "")}
            for name, convert in _IMAGE_FIELDS.items():
                if value.get(name) is not None:
                    known[name] = convert(value[name])
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer(f"an image from DT cannot be read ({error!r}): {str(value)[:200]}") from error
        return cls(**known)


def _text(value: Any) -> str:
    """Text as DT means it; a structure (loras may come as JSON) keeps its JSON form."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "str": _text, "int": int, "float": float, "bool": bool,
    "int | None": int, "float | None": float, "tuple[str, ...]": tuple,
}  # fmt: skip
_IMAGE_FIELDS = {f.name: _CONVERTERS[str(f.type)] for f in fields(ImageRecord) if f.name not in ("id", "path")}


OPERATIONS = ("txt2img", "img2img", "upscale", "inpaint", "variation")


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
    try:
        size = len(json.dumps(found, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"keypoints are no JSON object: {error}") from error
    if not isinstance(found, dict) or size > MAX_KEYPOINTS:
        raise BadInput(f"keypoints are a JSON object of at most {MAX_KEYPOINTS:,} bytes")
    return found


@dataclass(frozen=True, slots=True)
class Generation:
    """Something that was made: from what, how, and where it lies.

    ``source_image_id``: DT's id of the image it was made from; ``base``: the key of the generation it was
    made from, where that is not in DT yet.  ``operation`` is one of ``OPERATIONS``.  ``output``: the path
    of the saved picture, by which it is found again once DT has scanned it.  ``batch_id``: the batch it
    belongs to.  ``key`` names the record for good: the same key sent twice is stored once.  ``id`` is the
    server's own, "" before it has one; ``created`` is ISO 8601, UTC.
    """

    operation: str = "txt2img"
    source_image_id: int | None = None
    prompt: str = ""
    negative_prompt: str = ""
    model: str = ""
    seed: int = 0
    steps: int = 0
    cfg: float = 0.0
    denoise: float = 1.0
    width: int = 0
    height: int = 0
    base: str = ""
    output: str = ""
    batch_id: str = ""
    extra_metadata: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    id: str = ""
    created: str = ""

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Generation:
        """Reads the contract's fields and ours, None and absent ones as their default; raises BadInput naming what
        cannot be used."""
        known: dict[str, Any] = {}
        for name, convert in _GENERATION_FIELDS.items():
            given = value.get(name)
            if given is None:
                continue
            try:
                known[name] = convert(given)
            except (TypeError, ValueError, OverflowError) as error:
                raise BadInput(f"a generation's {name} cannot be {given!r}") from error
        made = cls(**known)
        if made.operation not in OPERATIONS:
            raise BadInput(f"a generation's operation is one of {', '.join(OPERATIONS)}, not '{made.operation}'")
        numbers = {name: getattr(made, name) for name in ("seed", "steps", "width", "height", "cfg", "denoise")}
        for name, number in numbers.items():
            if not 0 <= number < 2**64:  # also false for NaN
                raise BadInput(f"a generation's {name} must be 0 or more, and less than 2^64, not {number}")
        if not re.fullmatch(r"[!-~]{0,200}", made.key):  # it travels in an HTTP header
            raise BadInput(f"a generation's key is at most 200 ASCII characters without spaces, not {made.key!r}")
        if made.source_image_id is not None and not 0 < made.source_image_id < 2**63:
            raise BadInput(f"a generation's source_image_id cannot be {made.source_image_id}")
        return made


def _mapping(value: Any) -> dict[str, Any]:
    found = dict(value)
    json.dumps(found, allow_nan=False)  # it must be storable
    return found


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError("not a whole number")
    return int(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate is no text either
    return value.replace("\0", "")  # which no database takes


_GENERATION_FIELDS: dict[str, Callable[[Any], Any]] = {
    "operation": _string, "source_image_id": _whole, "prompt": _string, "negative_prompt": _string,
    "model": _string, "seed": _whole, "steps": _whole, "cfg": float, "denoise": float, "width": _whole,
    "height": _whole, "base": _string, "output": _string, "batch_id": _string, "extra_metadata": _mapping,
    "key": _string, "id": str, "created": _string,
}  # fmt: skip


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
    def from_json(cls, value: Mapping[str, Any], image_id: int) -> Captions:
        wd14, joytag, caption, combined = (
            str(value.get(name) or "") for name in ("wd14_tags", "joytag_tags", "joycaption", "combined")
        )
        return cls(image_id, wd14, joytag, caption, combined, tuple(value.get("tags") or ()))


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cluster:
        try:
            count = value.get("image_count", value.get("member_count", 0))
            members = tuple(Member(int(m["image_id"]), float(m["confidence"])) for m in value.get("members") or ())
            return cls(int(value["id"]), str(value.get("name") or ""), int(count or 0), members)
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer(f"a cluster from DT cannot be read ({error!r}): {str(value)[:200]}") from error


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search: ``similarity`` is the cosine, -1..1."""

    id: int
    similarity: float
    image: ImageRecord

    def to_json(self) -> dict[str, Any]:
        return {"similarity": self.similarity, **self.image.to_json()}


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """One image of a cluster, with how sure DT is of it (0..1)."""

    image: ImageRecord
    confidence: float

    def to_json(self) -> dict[str, Any]:
        return {**self.image.to_json(), "confidence": self.confidence, "quality": self.image.quality}


@dataclass(frozen=True, slots=True)
class Kind:
    """Something that can be mirrored: images, captions, clusters, or ``embeddings.LAYER`` with its identity."""

    name: str
    count: int
    identity: Identity | None = None

    @property
    def layer(self) -> str | None:
        return layer_of(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some rows of one kind: ids int64[n], digests int64[n], and n records or vectors float32[n, dim]."""

    ids: Int64s
    digests: Int64s
    rows: list[ImageRecord] | list[Captions] | list[Cluster] | Float32s = field(repr=False)


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
