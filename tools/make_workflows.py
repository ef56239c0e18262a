"""Writes example_workflows/*.json, in the form ComfyUI's page saves and opens.

    python tools/make_workflows.py

Each workflow is said here as nodes with their values and links; places on the page and the many
numbers of the file format follow from that.  A link is written ``("name of a node", output)``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("luna_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
assert spec is not None
assert spec.loader is not None
pack = importlib.util.module_from_spec(spec)
sys.modules["luna_pack"] = pack
spec.loader.exec_module(pack)

#: ComfyUI's own nodes used here: inputs (name -> type; widgets are STRING, INT, FLOAT, COMBO) and outputs.
CORE = {
    "CheckpointLoaderSimple": ({"ckpt_name": "COMBO"}, ("MODEL", "CLIP", "VAE")),
    "CLIPTextEncode": ({"text": "STRING", "clip": "CLIP"}, ("CONDITIONING",)),
    "EmptyLatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ("LATENT",)),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, ("LATENT",)),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, ()),
    "PreviewImage": ({"images": "IMAGE"}, ()),
    "PreviewAny": ({"source": "*"}, ()),
    "ImageScale": (
        {"image": "IMAGE", "upscale_method": "COMBO", "width": "INT", "height": "INT", "crop": "COMBO"}, ("IMAGE",),
    ),
    "ControlNetLoader": ({"control_net_name": "COMBO"}, ("CONTROL_NET",)),
    "ControlNetApplyAdvanced": (
        {"positive": "CONDITIONING", "negative": "CONDITIONING", "control_net": "CONTROL_NET", "image": "IMAGE",
         "strength": "FLOAT", "start_percent": "FLOAT", "end_percent": "FLOAT"},
        ("CONDITIONING", "CONDITIONING"),
    ),
    "KSampler": (
        {"model": "MODEL", "seed": "INT", "steps": "INT", "cfg": "FLOAT", "sampler_name": "COMBO", "scheduler": "COMBO",
         "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT", "denoise": "FLOAT"},
        ("LATENT",),
    ),
}  # fmt: skip
WIDGETS = ("STRING", "INT", "FLOAT", "COMBO", "BOOLEAN")

CHECKPOINT = ("CheckpointLoaderSimple", {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"})
SAMPLER = {"seed": 1, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def sampler(**changes: Any) -> tuple[str, dict[str, Any]]:
    common = {"model": ("model", 0), "positive": ("positive", 0), "negative": ("negative", 0)}
    return "KSampler", {**common, **SAMPLER, **changes}


def encoded(text: Any) -> tuple[str, dict[str, Any]]:
    return "CLIPTextEncode", {"text": text, "clip": ("model", 1)}


DECODED = ("VAEDecode", {"samples": ("sampler", 0), "vae": ("model", 2)})

WORKFLOWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "Regenerate with another model": {
        "dt": ("LunaDTPromptInjector", {"image_id": 1}),
        "model": CHECKPOINT,
        "positive": encoded(("dt", 0)),
        "negative": encoded(("dt", 1)),
        "size": ("EmptyLatentImage", {"width": ("dt", 2), "height": ("dt", 3), "batch_size": 1}),
        "sampler": sampler(latent_image=("size", 0), cfg=("dt", 4), steps=("dt", 5)),
        "picture": DECODED,
        "save": ("SaveImage", {"images": ("picture", 0), "filename_prefix": "regenerated"}),
    },
    "Character reference from a cluster": {
        "cluster": ("LunaDTClusterSampler", {"cluster": "1: Luna", "sample_count": 2, "min_quality": 0}),
        "references": ("PreviewImage", {"images": ("cluster", 0)}),
        "model": CHECKPOINT,
        "positive": encoded(("cluster", 1)),
        "negative": encoded("blurry, low quality"),
        "start": ("VAEEncode", {"pixels": ("cluster", 0), "vae": ("model", 2)}),
        "sampler": sampler(latent_image=("start", 0), denoise=0.6),
        "picture": DECODED,
        "save": ("SaveImage", {"images": ("picture", 0), "filename_prefix": "character"}),
    },
    "Similar pictures for training data": {
        "reference": ("LunaDTImageLoader", {"image_id": 1}),
        "similar": (
            "LunaDTSimilarSearch",
            {"reference_image": ("reference", 0), "reference_image_id": ("reference", 7), "top_k": 8, "min_similarity": 0.3},
        ),
        "save": ("SaveImage", {"images": ("similar", 0), "filename_prefix": "training/picture"}),
        "captions": ("LunaDTCaptionFetcher", {"image_id": ("similar", 4), "prepend_trigger": "my_style"}),
        "text": ("PreviewAny", {"source": ("captions", 3)}),
    },
    "The pose of a picture for a new one": {
        "dt": ("LunaDTPromptInjector", {"image_id": 1}),
        "map": ("LunaDTControlNetCache", {"image_id": 1, "controlnet_type": "openpose"}),
        "model": CHECKPOINT,
        "prompt": encoded(("dt", 0)),
        "against": encoded(("dt", 1)),
        "net": ("ControlNetLoader", {"control_net_name": "control_v11p_sd15_openpose_fp16.safetensors"}),
        "posed": (
            "ControlNetApplyAdvanced",
            {"positive": ("prompt", 0), "negative": ("against", 0), "control_net": ("net", 0), "image": ("map", 0),
             "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
        ),
        "size": ("EmptyLatentImage", {"width": ("dt", 2), "height": ("dt", 3), "batch_size": 1}),
        "sampler": sampler(latent_image=("size", 0), positive=("posed", 0), negative=("posed", 1)),
        "picture": DECODED,
        "save": ("SaveImage", {"images": ("picture", 0), "filename_prefix": "posed"}),
    },
}  # fmt: skip


def described(kind: str) -> tuple[dict[str, str], dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """A node's inputs with their types and defaults, its outputs' types and names."""
    if kind in CORE:
        inputs, outputs = CORE[kind]
        return inputs, {}, outputs, outputs
    node = pack.NODE_CLASS_MAPPINGS[kind]
    declared = {**node.INPUT_TYPES()["required"], **node.INPUT_TYPES().get("optional", {})}
    types = {name: "COMBO" if isinstance(spec[0], list) else spec[0] for name, spec in declared.items()}
    defaults = {name: spec[1].get("default") for name, spec in declared.items()}
    return types, defaults, node.RETURN_TYPES, node.RETURN_NAMES


def saved(workflow: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    numbers = {name: i for i, name in enumerate(workflow, 1)}
    nodes: dict[str, dict[str, Any]] = {}
    links: list[list[Any]] = []
    for i, (name, (kind, _)) in enumerate(workflow.items()):
        _, _, types, names = described(kind)
        outputs = [{"name": n, "type": t, "links": []} for n, t in zip(names, types, strict=True)]
        nodes[name] = {
            "id": numbers[name], "type": kind, "pos": [40 + 380 * (i // 2), 80 + 420 * (i % 2)], "size": [320, 260],
            "flags": {}, "order": i, "mode": 0, "inputs": [], "outputs": outputs,
            "properties": {"Node name for S&R": kind}, "widgets_values": [],
        }  # fmt: skip
    for name, (kind, values) in workflow.items():
        node = nodes[name]
        inputs, defaults, _, _ = described(kind)
        for key, type_ in inputs.items():
            value = values.get(key, defaults.get(key))
            if isinstance(value, tuple):
                source, slot = value
                links.append([len(links) + 1, numbers[source], slot, numbers[name], len(node["inputs"]),
                              nodes[source]["outputs"][slot]["type"]])  # fmt: skip
                nodes[source]["outputs"][slot]["links"].append(len(links))
                entry = {"name": key, "type": type_, "link": len(links)}
                if type_ in WIDGETS:
                    entry["widget"] = {"name": key}
                node["inputs"].append(entry)
                value = {"STRING": "", "INT": 1, "FLOAT": 1.0}.get(type_)
            elif type_ not in WIDGETS:
                node["inputs"].append({"name": key, "type": type_, "link": None})
            if type_ in WIDGETS:
                node["widgets_values"].append(value)
                if key == "seed" and kind in CORE:  # ours have no "control after generate"
                    node["widgets_values"].append("fixed")
    return {"last_node_id": len(nodes), "last_link_id": len(links), "nodes": list(nodes.values()), "links": links,
            "groups": [], "config": {}, "extra": {}, "version": 0.4}  # fmt: skip


if __name__ == "__main__":
    folder = ROOT / "example_workflows"
    folder.mkdir(exist_ok=True)
    for title, workflow in WORKFLOWS.items():
        (folder / f"{title}.json").write_text(json.dumps(saved(workflow), indent=1) + "\n")
