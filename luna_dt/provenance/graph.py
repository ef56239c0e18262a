"""ComfyUI's graph (a workflow in its API format), as far as it says how a picture was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def read(graph: Any, node: Any) -> dict[str, Any]:
    """What a graph shows of how a node's image was made: of the nearest sampler upstream its seed, steps, cfg,
    denoise, sampler, scheduler, and the prompt, negative and model that are written out there; {} for nothing."""
    sampler = _upstream(
        graph, node, lambda n: "sampler_name" in n["inputs"] and {"seed", "noise_seed"} & set(n["inputs"])
    )
    if sampler is None:
        return {}
    inputs = graph[sampler]["inputs"]
    names = {
        "seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "cfg", "denoise": "denoise",
        "sampler_name": "sampler", "scheduler": "scheduler",
    }  # fmt: skip
    found = {ours: inputs[theirs] for theirs, ours in names.items() if _written(inputs.get(theirs))}
    for theirs, ours in (("positive", "prompt"), ("negative", "negative")):
        if source := _upstream(graph, sampler, lambda n: isinstance(n["inputs"].get("text"), str), via=theirs):
            found[ours] = graph[source]["inputs"]["text"]
    if loader := _upstream(graph, sampler, lambda n: isinstance(n["inputs"].get("ckpt_name"), str), via="model"):
        found["model"] = graph[loader]["inputs"]["ckpt_name"]
    return found


def _written(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _upstream(graph: Any, node: Any, fits: Callable[[Any], Any], via: str = "") -> str | None:
    """The nearest node that fits, going up the links from a node, first along one of its inputs if named."""
    start = (graph or {}).get(str(node))
    if start is None:
        return None

    def onward(inputs: dict[str, Any]) -> list[Any]:
        """A node that has an input of that name, as a ControlNet has, is passed through along it."""
        return [inputs[via]] if via in inputs else list(inputs.values())

    ahead = onward(start["inputs"])
    seen: set[str] = set()
    while ahead:
        value = ahead.pop(0)
        name = str(value[0]) if isinstance(value, list) and len(value) == 2 else ""
        if name in seen or name not in graph:
            continue
        seen.add(name)
        if fits(graph[name]):
            return name
        ahead.extend(onward(graph[name]["inputs"]))
    return None
