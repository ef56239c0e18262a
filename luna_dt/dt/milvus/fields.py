"""What a server keeps of an image beside its record, so that it can tell by itself which images fit a condition.

Texts are kept in one way to write them (``one_way``), as letters.py has it: what is found in one is found whatever the
case and the form of its letters.  Milvus 2.3 has no values that are missing, so flags say whether a number is there.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ...letters import fold
from ...records import FLAGS, Captions, ImageRecord

MAX_VARCHAR = 65_535  # bytes of a text
MAX_LISTED = 4096  # tags of one image, and clusters
TEXTS = (
    "prompt",
    "negative_prompt",
    "model",
    "model_hash",
    "sampler",
    "path",
    "folder",
    "tag_lines",
    "created",
    "aspect",
)
WHOLE_NUMBERS = ("width", "height", "steps", "seed", "rating")
#: Milvus's types of the fields, by their names, of lists with that of what is in them; of numbers that may be missing a flag says whether they are there.
TYPES: Mapping[str, str] = {
    **dict.fromkeys(TEXTS, "VARCHAR"),
    **dict.fromkeys(WHOLE_NUMBERS, "INT64"),
    **dict.fromkeys(("cfg", "aesthetic_score"), "DOUBLE"),
    **dict.fromkeys((*FLAGS, "rated", "scored", "captioned"), "BOOL"),
    "tags": "ARRAY VARCHAR",
    "clusters": "ARRAY INT64",
}
LINE_END = "\ufdd3"  # what a line's end is kept as
#: Signs of Milvus's patterns, which nothing takes for letters in all its versions, are kept as characters that are none.
_KEPT_AS = str.maketrans({"%": "\ufdd0", "_": "\ufdd1", "\\": "\ufdd2", "\n": LINE_END})


def one_way(text: str) -> str:
    """A text as it is kept, and as it is looked for."""
    return unicodedata.normalize("NFC", fold(text)).translate(_KEPT_AS)


def fields_of(image: ImageRecord, captions: Captions | None, clusters: Sequence[int] = ()) -> dict[str, Any] | None:
    """The fields of an image that is in ``clusters``, by their ids; None where a server cannot keep them."""
    tags = [one_way(tag) for tag in image.tags if tag]
    folder = re.match(r"(?s)(.*)[\\/]", image.path)
    w, h = image.width, image.height
    least = math.gcd(w, h)
    texts = {
        name: one_way(getattr(image, name))
        for name in ("prompt", "negative_prompt", "model", "model_hash", "sampler", "path")
    }
    texts |= {
        "folder": one_way(folder[1]) if folder else LINE_END,  # which no folder is called
        "tag_lines": LINE_END + LINE_END.join(tags) + LINE_END if tags else "",
        "created": image.created,
        "aspect": f"{w // least}:{h // least}" if w > 0 and h > 0 else "",
    }
    if max(len(tags), len(clusters)) > MAX_LISTED or any(len(text.encode()) > MAX_VARCHAR for text in texts.values()):
        return None
    return {
        **texts,
        **{name: getattr(image, name) for name in (*FLAGS, "width", "height", "steps", "seed", "cfg")},
        "rating": image.rating or 0, "rated": image.rating is not None,
        "aesthetic_score": image.aesthetic_score or 0.0, "scored": image.aesthetic_score is not None,
        "captioned": captions is not None and captions.combined != ", ".join(captions.tags),
        "tags": tags, "clusters": list(clusters),
    }  # fmt: skip
