"""Workflows in ComfyUI's API format (its word is prompt): read, and an item's id, seed and prompt put in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..provenance.walk import link_of

QUEUE_NODE, WRITER, INJECTOR = "LunaDTBatchQueue", "LunaDTMetadataWriter", "LunaDTPromptInjector"
ID_INPUTS = ("image_id", "source_image_id", "reference_image_id")
SEED_INPUTS = ("seed", "noise_seed")

Prompt = dict[str, Any]


def read_workflow(path: Path) -> Prompt:
    """A workflow saved in ComfyUI's API format; raises BadInput saying how to save one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"the workflow {path} cannot be read: {error}") from error
    if not _is_prompt(found):
        raise BadInput(f"{path} is no workflow in API format; in ComfyUI, save it with Export (API)")
    return dict(found)


def _is_prompt(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in value.values())
    )


def without_queue_nodes(prompt: Mapping[str, Any]) -> Prompt:
    """A copy without Batch Queue nodes, which would queue themselves for ever, and without what hangs on them."""
    left = {name: copy.deepcopy(dict(node)) for name, node in prompt.items()}
    for node in left.values():
        node.pop("is_changed", None)
    gone = {name for name, node in left.items() if node["class_type"] == QUEUE_NODE}
    while gone:
        for name in gone:
            left.pop(name)
        gone = {
            name
            for name, node in left.items()
            if any((link := link_of(value)) and link.node not in left for value in node["inputs"].values())
        }
    return left


def _takers(prompt: Prompt, inputs: Iterable[str], kind: str = "") -> list[tuple[dict[str, Any], str]]:
    """The nodes' inputs of those names that hold a value of their own, not a link."""
    return [
        (node["inputs"], name)
        for node in prompt.values()
        for name in inputs
        if node["class_type"].startswith(kind) and name in node["inputs"] and not link_of(node["inputs"][name])
    ]


def check_takers(prompt: Prompt, seeds: bool, prompts: bool) -> None:
    """Raises BadInput when no node takes an id, or a seed or prompt although some are given."""
    if not _takers(prompt, ID_INPUTS, "LunaDT"):
        raise BadInput("no Luna node of this workflow takes an image id; add a Luna DT Image Loader or Prompt Injector")
    if seeds and not _takers(prompt, SEED_INPUTS):
        raise BadInput("no node of this workflow has a seed of its own; leave the seeds empty")
    if prompts and not _takers(prompt, ("prompt_override",), INJECTOR):
        raise BadInput("prompts go into a Luna DT Prompt Injector, which this workflow lacks; leave them empty")


def filled(
    workflow: Prompt, image_id: int, seed: int | None, prompt: str | None, operation: str, batch_item: str
) -> Prompt:
    """A copy with an item's id, seed and prompt in the nodes that take them; a writer is told of the operation and
    of which item of which batch (``BATCH/POSITION``) it writes."""
    whole = copy.deepcopy(workflow)
    for inputs, name in _takers(whole, ID_INPUTS, "LunaDT"):
        inputs[name] = image_id
    if seed is not None:
        for inputs, name in _takers(whole, SEED_INPUTS):
            inputs[name] = seed
    if prompt is not None:
        for inputs, name in _takers(whole, ("prompt_override",), INJECTOR):
            inputs[name] = prompt
        for inputs, name in _takers(whole, ("prompt",), WRITER):
            inputs[name] = prompt
    for node in whole.values():
        if node["class_type"] == WRITER:
            node["inputs"].update(operation=operation, batch_id=batch_item)
    return whole


def has_writer(prompt: Prompt) -> bool:
    """Whether a Metadata Writer in the workflow tells DT of what is done."""
    return any(node["class_type"] == WRITER for node in prompt.values())
