"""Luna DT Metadata Writer."""

from __future__ import annotations

from typing import Any

from ..luna_dt.errors import NotOffered
from . import comfy

OPERATIONS = ("txt2img", "img2img", "upscale", "inpaint", "variation")


class LunaDTMetadataWriter:
    """Will record in DT what was made from what."""

    TITLE = "Luna DT Metadata Writer"
    CATEGORY = comfy.CATEGORY
    DESCRIPTION = (
        "Records a generation in DiffusionToolkit. Not possible yet: the node stops with an error that says so."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The image, unchanged.",)
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        def text(tooltip: str) -> tuple[str, dict[str, Any]]:
            return "STRING", {"default": "", "multiline": True, "tooltip": tooltip}

        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "What was made."}),
                "source_image_id": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": comfy.MAX_ID,
                        "tooltip": "DT's id of what it was made from; 0: nothing.",
                    },
                ),
                "operation": (list(OPERATIONS), {"default": "txt2img", "tooltip": "How it was made."}),
            },
            "optional": {
                "prompt": text("Its prompt."),
                "negative": text("Its negative prompt."),
                "model": ("STRING", {"default": "", "tooltip": "Its model."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": comfy.MAX_SEED, "tooltip": "Its seed."}),
                "steps": ("INT", {"default": 20, "min": 0, "max": 10000, "tooltip": "Its number of steps."}),
                "cfg": ("FLOAT", {"default": 7.0, "tooltip": "Its CFG scale."}),
                "denoise": ("FLOAT", {"default": 1.0, "tooltip": "Its denoising strength."}),
                "metadata": ("METADATA", {"tooltip": "What else is to be kept with it."}),
            },
        }

    def run(self, **_: Any) -> tuple[Any, ...]:
        raise NotOffered("recording generations in DT is not possible yet; take the Metadata Writer out, or mute it")
