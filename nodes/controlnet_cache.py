"""Luna DT ControlNet Cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..luna_dt.preproc.map_types import HIGH, LOW, MAX_RESOLUTION, RESOLUTION, TYPES
from . import host, inputs, pictures, shared

if TYPE_CHECKING:
    import torch


class LunaDTControlNetCache:
    """A picture's ControlNet map: DT's, else the one kept here, else made now."""

    TITLE = "Luna DT ControlNet Cache"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "A ControlNet map of a picture in DT, or of any picture: the one DT has, else the one that was made here "
        "before, else it is made now and kept."
    )
    RETURN_TYPES = ("IMAGE", "BOOLEAN", "STRING")
    RETURN_NAMES = ("controlnet_image", "was_cached", "keypoints")
    OUTPUT_TOOLTIPS = (
        "The map, of the picture's size.",
        "True when it was there already, false when it was made now.",
        "The people of an openpose map as OpenPose's JSON: an object, or for several pictures a list; else empty.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        threshold = {"min": 0, "max": 255}
        return {
            "required": {
                "image_id": inputs.image_id(),
                "controlnet_type": (
                    list(TYPES),
                    {
                        "default": "openpose",
                        "tooltip": "Which map. OpenPose's weights (the four openpose types) are not for commercial use.",
                    },
                ),
            },
            "optional": {
                "generate_if_missing": ("BOOLEAN", {"default": True, "tooltip": "Make the map if it is not there."}),
                "reference_image": ("IMAGE", {"tooltip": "A picture to map in place of an image of DT."}),
                "resolution": (
                    "INT",
                    {
                        "default": RESOLUTION,
                        "min": 0,
                        "max": MAX_RESOLUTION,
                        "step": 64,
                        "tooltip": "The shorter side at which the map is made; 0: the picture's own.",
                    },
                ),
                "low_threshold": (
                    "INT",
                    {"default": LOW, **threshold, "tooltip": "Canny: below it nothing is a line."},
                ),
                "high_threshold": ("INT", {"default": HIGH, **threshold, "tooltip": "Canny: above it all is a line."}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, image_id: int | None = None, **_: Any) -> str:  # noqa: N802
        return shared.fingerprint(shared.library(), image_id)

    def run(
        self,
        image_id: int,
        controlnet_type: str,
        generate_if_missing: bool = True,
        reference_image: torch.Tensor | None = None,
        resolution: int = RESOLUTION,
        low_threshold: int = LOW,
        high_threshold: int = HIGH,
    ) -> dict[str, Any]:
        import torch

        library = shared.library()
        sources: list[dict[str, Any]]
        if reference_image is None:
            sources = [{"image_id": shared.needed_id(image_id)}]
        else:
            sources = [{"image": each} for each in reference_image]
        found = [
            library.map(
                controlnet_type,
                **source,
                resolution=resolution or "source",
                low=low_threshold,
                high=high_threshold,
                make=generate_if_missing,
            )
            for source in host.each(sources)
        ]
        shown = [pictures.preview(each.picture) for each in found]
        images = torch.cat([pictures.to_image(each.picture) for each in found])
        keypoints = [each.keypoints for each in found]
        told = json.dumps(keypoints[0] if len(keypoints) == 1 else keypoints) if None not in keypoints else ""
        return {
            "ui": {"images": [image for each in shown for image in each.get("images", ())]},
            "result": (images, all(each.was_cached for each in found), told),
        }
