"""Luna DT Image Loader."""

from __future__ import annotations

from typing import Any

from ..luna_dt.errors import NotFound
from ..luna_dt.pixels import read_alpha, read_pictures
from . import inputs, pictures, shared


class LunaDTImageLoader:
    """A picture and what DT knows about it, by id or as the nth answer to a query."""

    TITLE = "Luna DT Image Loader"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Loads a picture of your DiffusionToolkit library, by id or by a query, with its prompt and settings."
    RETURN_TYPES = ("IMAGE", "STRING", "STRING", "INT", "INT", "METADATA", "MASK", "INT")
    RETURN_NAMES = ("image", "prompt", "negative", "width", "height", "metadata", "mask", "image_id")
    OUTPUT_TOOLTIPS = (
        "The picture.",
        "Its prompt.",
        "Its negative prompt.",
        "Its width in pixels.",
        "Its height in pixels.",
        "Everything DT knows about it.",
        "Where it is transparent.",
        "Its id in DT, also where a query has chosen it.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_id": inputs.image_id("DT's id of the picture; 0 to use the query."),
            },
            "optional": {
                "api_url": inputs.API_URL,
                "query": inputs.text("DT's query language, e.g.: cat, red hat rating: > 6 size: portrait"),
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
    def IS_CHANGED(  # noqa: N802
        cls, image_id: int | None = None, api_url: str | None = None, query: str | None = "", **_: Any
    ) -> str:
        library = shared.library(api_url or "")
        if image_id:
            return library.fingerprint(image_id=image_id)
        return shared.fingerprint_of_query(library, query, "images", "captions")

    def run(self, image_id: int, api_url: str = "", query: str = "", index: int = 0) -> dict[str, Any]:
        library = shared.library(api_url)
        if not image_id and query.strip():
            found = library.images(query, limit=index + 1)
            if len(found) <= index:
                raise NotFound(f"the query '{query}' finds {len(found)} pictures, so there is none at index {index}")
            image_id = found[index].id
        record = library.image(shared.needed_id(image_id))
        data = library.file(image_id)
        picture = read_pictures(data, f"image {image_id}")[0]
        mask = pictures.to_mask(read_alpha(data), picture.size)
        image, told = pictures.to_image(picture), (record.prompt, record.negative_prompt)
        result = (image, *told, *picture.size, record.to_json(), mask, image_id)
        return {"ui": pictures.preview(picture), "result": result}
