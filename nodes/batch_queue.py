"""Luna DT Batch Queue."""

from __future__ import annotations

from typing import Any

from ..luna_dt.errors import NotOffered
from . import comfy
from .metadata_writer import OPERATIONS


class LunaDTBatchQueue:
    """Will queue many operations as one tracked batch."""

    TITLE = "Luna DT Batch Queue"
    CATEGORY = comfy.CATEGORY
    DESCRIPTION = (
        "Queues an operation for many images of DT, tracked as one batch. Not possible yet: the node stops with an "
        "error that says so."
    )
    RETURN_TYPES = ("STRING", "INT", "STRING")
    RETURN_NAMES = ("batch_id", "count", "status")
    OUTPUT_TOOLTIPS = ("The batch's id.", "How many operations it has.", "How it stands, in words.")
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_ids": ("STRING", {"default": "", "tooltip": "Ids of DT's images, such as: 12, 15-20"}),
                "operation": (list(OPERATIONS), {"default": "img2img", "tooltip": "What is done with each."}),
            },
        }

    def run(self, **_: Any) -> tuple[Any, ...]:
        raise NotOffered("queueing batches is not possible yet; take the Batch Queue out, or mute it")
