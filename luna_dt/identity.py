"""What made a layer's vectors, so what they may be compared with; and what verifying them found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .errors import BadAnswer

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

#: The small models that ``fast`` stands for, by tower: 0.6 and 0.13 GB of weights.
FAST = {"image": "ViT-B-32:laion2b_s34b_b79k", "text": "BAAI/bge-small-en-v1.5"}


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
