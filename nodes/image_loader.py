"""Luna DT Image Loader."""

from __future__ import annotations

from typing import Any

from ..luna_dt.errors import NotFound
from ..luna_dt.pixels import read_alpha, read_pictures
from . import comfy


class LunaDTImageLoader:
    """A picture and what DT knows about it, by id or as the nth answer to a query."""

    TITLE = "Luna DT Image Loader"
    CATEGORY = comfy.CATEGORY
    DESCRIPTION = "Loads a picture of your DiffusionToolkit library, by id or by a query, with its prompt and settings."
    RETURN_TYPES = ("IMAGE", "STRING", "STRING", "INT", "INT", "METADATA", "MASK")
    RETURN_NAMES = ("image", "prompt", "negative", "width", "height", "metadata", "mask")
    OUTPUT_TOOLTIPS = (
        "The picture.",
        "Its prompt.",
        "Its negative prompt.",
        "Its width in pixels.",
        "Its height in pixels.",
        "Everything DT knows about it.",
        "Where it is transparent.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_id": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": comfy.MAX_ID,
                        "tooltip": "DT's id of the picture; 0 to use the query.",
                    },
                ),
            },
            "optional": {
                "api_url": (
                    "STRING",
                    {"default": "http://localhost:5000", "tooltip": "The DT you configured, or one you allowed."},
                ),
                "query": (
                    "STRING",
                    {"default": "", "tooltip": "DT's query language, e.g.: cat, red hat rating: > 6 size: portrait"},
                ),
                "index": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 9999,
                        "tooltip": "Which of the query's pictures, from 0, in id order.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, image_id: int | None = None, api_url: str | None = None, **_: Any) -> str:  # noqa: N802
        return comfy.fingerprint(comfy.library(api_url or ""), image_id)

    def run(self, image_id: int, api_url: str = "", query: str = "", index: int = 0) -> tuple[Any, ...]:
        library = comfy.library(api_url)
        if not image_id and query.strip():
            found = library.images(query, limit=index + 1)
            if len(found) <= index:
                raise NotFound(f"the query '{query}' finds {len(found)} pictures, so there is none at index {index}")
            image_id = found[index].id
        record = library.image(comfy.needed_id(image_id))
        data = library.file(image_id)
        picture = read_pictures(data, f"image {image_id}")[0]
        mask = comfy.to_mask(read_alpha(data), picture.size)
        metadata = record.to_json()
        return comfy.to_image(picture), record.prompt, record.negative_prompt, *picture.size, metadata, mask
