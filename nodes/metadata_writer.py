"""Luna DT Metadata Writer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..luna_dt.errors import BadInput
from ..luna_dt.generation import OPERATIONS, Generation
from ..luna_dt.pixels import read_pictures
from ..luna_dt.provenance import graph as graphs
from ..luna_dt.provenance import parameters
from . import inputs, pictures, shared

if TYPE_CHECKING:
    import torch

#: What the node's inputs are while nobody has set them; then the sampler upstream is asked.
UNSET: dict[str, Any] = {"prompt": "", "negative": "", "model": "", "seed": 0, "steps": 20, "cfg": 7.0, "denoise": 1.0}


class LunaDTMetadataWriter:
    """Records what was made, from what and how: stored here at once, sent to DT when it is there."""

    TITLE = "Luna DT Metadata Writer"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Records a generation in DiffusionToolkit, each picture of a batch on its own. It is stored on this machine "
        "first and sent in the background, so nothing is lost while DT is closed. What is left at its default is "
        "taken from the sampler that made the image, if the workflow shows it. With a filename_prefix the pictures "
        "are saved as well, with everything DT reads from a PNG."
    )
    RETURN_TYPES = ("IMAGE", "STRING", "STRING")
    RETURN_NAMES = ("image", "generation", "status")
    OUTPUT_TOOLTIPS = (
        "The image, unchanged.",
        "The record's key, for the base of what is made from this image.",
        "Whether it is stored or sent already.",
    )
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "What was made."}),
                "source_image_id": inputs.image_id("DT's id of what it was made from; 0: nothing."),
                "operation": (list(OPERATIONS), {"default": "txt2img", "tooltip": "How it was made."}),
            },
            "optional": {
                "prompt": inputs.text("Its prompt.", multiline=True),
                "negative": inputs.text("Its negative prompt.", multiline=True),
                "model": inputs.text("Its model."),
                "seed": inputs.seed("Its seed."),
                "steps": ("INT", {"default": 20, "min": 0, "max": 10000, "tooltip": "Its number of steps."}),
                "cfg": ("FLOAT", {"default": 7.0, "tooltip": "Its CFG scale."}),
                "denoise": ("FLOAT", {"default": 1.0, "tooltip": "Its denoising strength."}),
                "metadata": ("METADATA", {"tooltip": "What else is to be kept with it."}),
                "filename_prefix": inputs.text(
                    "Save the pictures under this name in ComfyUI's output folder; empty: do not save."
                ),
                "base": inputs.text(
                    "The generation it was made from, of another Metadata Writer, where that is not in DT yet."
                ),
                "batch_id": inputs.text("The batch it belongs to; the Batch Queue fills it in."),
            },
            "hidden": {"graph": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "unique_id": "UNIQUE_ID"},
        }

    def run(
        self,
        image: torch.Tensor,
        source_image_id: int,
        operation: str,
        metadata: Any = None,
        filename_prefix: str = "",
        base: str = "",
        batch_id: str = "",
        graph: Any = None,
        extra_pnginfo: Any = None,
        unique_id: Any = None,
        **given: Any,
    ) -> dict[str, Any]:
        made_by = graphs.read(graph, unique_id)
        said = {name: given.get(name, unset) for name, unset in UNSET.items()}
        said = {name: made_by.get(name, value) if value == UNSET[name] else value for name, value in said.items()}
        batch, _, position = batch_id.partition("/")
        opened = shared.library()
        entries, shown = [], []
        for i, picture in enumerate(image):
            extra: dict[str, Any] = {name: made_by[name] for name in ("sampler", "scheduler") if name in made_by}
            if len(image) > 1:
                extra["batch_index"] = i
            if position:
                extra["batch_item"] = int(position) if position.isdigit() else position
            if metadata is not None:
                extra["metadata"] = _plain(metadata)
            made = Generation.from_json(
                {
                    "operation": operation, "source_image_id": source_image_id or None, "base": base,
                    "prompt": said["prompt"], "negative_prompt": said["negative"], "model": said["model"],
                    "seed": said["seed"], "steps": said["steps"], "cfg": said["cfg"], "denoise": said["denoise"],
                    "width": picture.shape[1], "height": picture.shape[0], "batch_id": batch, "extra_metadata": extra,
                }
            )  # fmt: skip
            # the same picture made in the same way is the same generation, however often it is run; every other row
            # tells pictures apart in half the time
            rows = (picture[::2] * 255).round_().clamp_(0, 255).byte().cpu().numpy().tobytes()
            key = hashlib.sha256(json.dumps(made.to_json(), sort_keys=True).encode() + rows).hexdigest()[:40]
            if filename_prefix.strip():
                saved = pictures.save(
                    read_pictures(picture)[0], filename_prefix, parameters.write(made), graph, extra_pnginfo
                )
                shown.append(saved.shown)
                made = Generation.from_json({**made.to_json(), "output": str(saved.path)})
            entries.append(opened.record({**made.to_json(), "key": key}))
        status = _status(opened, entries)
        ui = {"text": [status], **({"images": shown} if shown else {})}
        return {"ui": ui, "result": (image, entries[0].generation.key, status)}


def _status(opened: Any, entries: list[Any]) -> str:
    which = "record" if len(entries) == 1 else f"{len(entries)} records"
    if all(entry.state == "sent" for entry in entries):
        return f"{which} sent to DT before"
    for entry in entries:
        if entry.state in ("parked", "kept", "dropped"):
            return f"number {entry.position} was {entry.state} before ({entry.reason}); see luna-dt outbox list"
    counts = opened.outbox.counts()
    if counts["failing"]:
        return f"{which} stored; DT does not take them now: {counts['waiting']} wait, see luna-dt outbox list"
    return f"{which} stored, being sent to DT"


def _plain(value: Any) -> Any:
    """METADATA as JSON can hold it; raises BadInput when it cannot."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"the metadata given cannot be stored: {error}") from error
