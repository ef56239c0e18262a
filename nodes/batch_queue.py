"""Luna DT Batch Queue."""

from __future__ import annotations

import uuid
from typing import Any

from ..luna_dt.errors import BadInput
from ..luna_dt.generation import OPERATIONS
from ..luna_dt.made.ledger import TrackedBatch
from ..luna_dt.made.workflow import read_workflow
from . import host, inputs, shared


class LunaDTBatchQueue:
    """Queues one run of a workflow for each of many images, tracked as one batch."""

    TITLE = "Luna DT Batch Queue"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Queues this workflow, or a saved one, once for each image: its id goes into every Luna node that takes one, "
        "seeds and prompts into samplers and Prompt Injectors. The node takes itself out of what it queues, and shows "
        "how the batch stands."
    )
    RETURN_TYPES = ("STRING", "INT", "STRING")
    RETURN_NAMES = ("batch_id", "count", "status")
    OUTPUT_TOOLTIPS = ("The batch's id.", "How many operations it has.", "How it stands, in words.")
    FUNCTION = "run"
    OUTPUT_NODE = True
    INPUT_IS_LIST = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_ids": inputs.text("Ids of DT's images, such as: 12, 15-20; or a query in DT's language."),
                "operation": (list(OPERATIONS), {"default": "img2img", "tooltip": "What is done with each."}),
            },
            "optional": {
                "ids": (
                    "INT",
                    {
                        "forceInput": True,
                        "min": 0,
                        "max": inputs.MAX_ID,
                        "tooltip": "More ids, from Similar Search or another node that gives a list.",
                    },
                ),
                "seeds": inputs.text(
                    "Empty: as in the workflow. 'random', one number for all, or one for each: 1, 2, 3"
                ),
                "prompts": inputs.text(
                    "Empty: as in the workflow. One line for all, or a line for each.", multiline=True
                ),
                "workflow": inputs.text(
                    "Empty: this workflow. Else a file saved with Export (API) in ComfyUI's input folder or among its "
                    "saved workflows."
                ),
            },
            "hidden": {"graph": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:  # noqa: N802
        return uuid.uuid4().hex  # who queues again means it; a double click is seen by the batch itself

    def run(
        self,
        image_ids: list[str],
        operation: list[str],
        ids: list[int] | None = None,
        seeds: list[str] | None = None,
        prompts: list[str] | None = None,
        workflow: list[str] | None = None,
        graph: list[Any] | None = None,
        extra_pnginfo: list[Any] | None = None,
        unique_id: list[Any] | None = None,
    ) -> dict[str, Any]:
        opened = shared.library()
        wanted = [*opened.ids(image_ids[0]), *(int(i) for i in ids or ())]
        saved = (workflow or [""])[0].strip()
        prompt = read_workflow(host.workflow_file(saved)) if saved else (graph or [None])[0]
        if not prompt:
            raise BadInput("there is no workflow to queue; name one that was saved with Export (API)")
        batch = opened.batches.create(
            wanted,
            operation[0],
            prompt,
            host.own_address(),
            seeds=(seeds or [""])[0],
            prompts=(prompts or [""])[0],
            extra=host.extra_data(None if saved else (extra_pnginfo or [None])[0]),
        )
        node = (unique_id or [""])[0]

        def tell(now: TrackedBatch) -> None:
            host.show_text(node, type(self).__name__, f"batch {now.id}: {now}")

        try:
            batch = opened.batches.queue(batch.id, host.progress())
        finally:  # also where the user interrupts: what is queued already runs
            opened.batches.watch(batch.id, tell)
        status = f"batch {batch.id}: {batch}"
        return {"ui": {"text": [status]}, "result": (batch.id, len(batch.items), status)}
