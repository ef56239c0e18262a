"""Luna DT Metadata Writer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..luna_dt.errors import BadInput
from ..luna_dt.generation import OPERATIONS, Generation
from ..luna_dt.pixels import read_pictures
from ..luna_dt.provenance import Made, parameters
from ..luna_dt.provenance import graph as graphs
from . import file_names, host, inputs, pictures, shared, words

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

#: What the node's inputs are while nobody has set them; then the sampler upstream is asked.
UNSET: dict[str, Any] = {"prompt": "", "negative": "", "model": "", "seed": 0, "steps": 20, "cfg": 7.0, "denoise": 1.0}
#: Of which nothing, or 0, is no value: DT has that where it does not know.
NEVER_NOTHING = ("model", "steps", "cfg")
#: What a record has no field for.
EXTRA = ("sampler", "scheduler", "guidance", "loras")


class LunaDTMetadataWriter:
    """Records what was made, from what and how: stored here at once, sent to DT when it is there."""

    TITLE = "Luna DT Metadata Writer"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Records a generation in DiffusionToolkit, each picture of a batch on its own. It is stored on this machine "
        "first and sent in the background, so nothing is lost while DT is closed. What is left at its default is "
        "taken from the workflow, and left out where that does not show it. With a filename_prefix the pictures "
        "are saved as well, as PNG, WebP or JPEG with everything DT reads from them."
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
                    "Save the pictures under this name in ComfyUI's output folder, with %date:yyyy-MM-dd%, "
                    "%NODE.WIDGET% and the like filled in; empty: do not save."
                ),
                "base": inputs.text(
                    "The generation it was made from, of another Metadata Writer, where that is not in DT yet."
                ),
                "batch_id": inputs.text("The batch it belongs to; the Batch Queue fills it in."),
                "file_format": (list(pictures.KINDS), {"default": "png", "tooltip": "What the pictures are saved as."}),
                "quality": (
                    "INT",
                    {"default": 95, "min": 1, "max": 100, "tooltip": "Of WebP and JPEG; WebP at 100 is lossless."},
                ),
                "caption": inputs.text(
                    "Saved beside each picture as .txt, for training; empty: none. Link Caption Fetcher here.", True
                ),
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
        file_format: str = "png",
        quality: int = 95,
        caption: str = "",
        graph: Any = None,
        extra_pnginfo: Any = None,
        unique_id: Any = None,
        **given: Any,
    ) -> dict[str, Any]:
        told = _told(graphs.read(graph, unique_id), given, graph, unique_id)
        batch, _, position = batch_id.partition("/")
        opened = shared.library()
        when = datetime.now()  # the user's own time, as in ComfyUI's names
        entries, shown, broken, left_out = [], [], [], set[str]()
        for i, picture in enumerate(image):
            host.heed_interruption()
            if not picture.isfinite().all():
                broken.append(str(i + 1))
                continue
            height, width = picture.shape[:2]
            extra = {name: _plain(value) for name in EXTRA if (value := getattr(told, name)) not in (None, ())}
            if len(image) > 1:
                extra["batch_index"] = i
            if position:
                extra["batch_item"] = int(position) if position.isdigit() else position
            if metadata is not None:
                extra["metadata"] = _plain(metadata)
            made = Generation.from_json(
                {
                    "operation": operation, "source_image_id": source_image_id or None, "base": base,
                    "prompt": told.prompt, "negative_prompt": told.negative, "model": told.model, "seed": told.seed,
                    "steps": told.steps, "cfg": told.cfg, "denoise": told.denoise, "width": width, "height": height,
                    "batch_id": batch, "extra_metadata": extra,
                }
            )  # fmt: skip
            # the same picture made in the same way is the same generation, however often it is run; every other row
            # tells pictures apart in half the time
            rows = (picture[::2] * 255).round_().clamp_(0, 255).byte().cpu().numpy().tobytes()
            key = hashlib.sha256(json.dumps(made.to_json(), sort_keys=True).encode() + rows).hexdigest()[:40]
            if filename_prefix.strip():
                text = parameters.write(replace(told, width=width, height=height))
                prefix = file_names.filled(filename_prefix, graph, extra_pnginfo, when, i)
                saved = pictures.save(
                    read_pictures(picture)[0], prefix, file_format, quality, text, graph, extra_pnginfo
                )
                if caption.strip():
                    saved.path.with_suffix(".txt").write_text(caption.strip() + "\n", encoding="utf-8")
                shown.append(saved.shown)
                left_out.update(saved.left_out)
                made = Generation.from_json({**made.to_json(), "output": str(saved.path)})
            else:
                shown += pictures.preview(read_pictures(picture)[0]).get("images", [])
            entries.append(opened.record({**made.to_json(), "key": key}))
        if not entries:
            raise BadInput(f"{_broken(broken)}: there is no picture to record; look at what made it, often the VAE")
        status = words.here(_status(opened, entries))
        if broken:
            status = f"{status}; {_broken(broken)}, and is left out"
        if left_out:
            status = (
                f"{status}; a JPEG has no room for {' and '.join(sorted(left_out))}: choose png or webp to keep them"
            )
        if broken or left_out:
            log.warning(status)
        ui = {"text": [status], **({"images": shown} if shown else {})}
        return {"ui": ui, "result": (image, entries[0].generation.key, status)}


def _told(made_by: Made, given: Mapping[str, Any], graph: Any, unique_id: Any) -> Made:
    """What the node's inputs say, and where they are as nobody has set them, what the workflow shows.

    An input that is linked says what it says, also where that is an input's default.
    """
    linked = graphs.linked(graph, unique_id)
    said = {}
    for name, unset in UNSET.items():
        value = given.get(name, unset)
        if (value != unset or name in linked) and not (name in NEVER_NOTHING and not value):
            said[name] = value
    return replace(made_by, **said)


def _broken(numbers: list[str]) -> str:
    return f"number {', '.join(numbers)} of the batch holds values that are no numbers (NaN)"


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
