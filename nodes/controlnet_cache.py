"""Luna DT ControlNet Cache."""

from __future__ import annotations

from typing import Any

from ..luna_dt.errors import MapMissing, NotOffered
from . import comfy

TYPES = (
    "openpose", "openpose_face", "openpose_hand", "openpose_full", "canny", "depth_midas", "depth_zoe",
    "normal_bae", "lineart", "lineart_anime", "softedge", "scribble", "segmentation",
)  # fmt: skip


class LunaDTControlNetCache:
    """A picture's ControlNet map, as DT has stored it."""

    TITLE = "Luna DT ControlNet Cache"
    CATEGORY = comfy.CATEGORY
    DESCRIPTION = (
        "Fetches a ControlNet map of a picture that DT has stored. Maps that are missing cannot be made here yet."
    )
    RETURN_TYPES = ("IMAGE", "BOOLEAN")
    RETURN_NAMES = ("controlnet_image", "was_cached")
    OUTPUT_TOOLTIPS = ("The map.", "True when it was there already, false when it was made now.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_id": comfy.IMAGE_ID,
                "controlnet_type": (list(TYPES), {"default": "openpose", "tooltip": "Which map."}),
            },
            "optional": {
                "generate_if_missing": ("BOOLEAN", {"default": True, "tooltip": "Make the map if it is not there."}),
            },
        }

    def run(self, image_id: int, controlnet_type: str, generate_if_missing: bool = True) -> tuple[Any, bool]:
        try:
            picture = comfy.library().control_map(comfy.needed_id(image_id), controlnet_type)
        except MapMissing as error:
            if not generate_if_missing:
                raise
            raise NotOffered(
                f"{error}; making maps is not possible here yet, use a preprocessor node instead"
            ) from error
        return comfy.to_image(picture), True
