"""What SwarmUI, Fooocus and RuinedFooocus, InvokeAI, NovelAI, Draw Things and Easy Diffusion write into their pictures, most
as JSON of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from . import Lora, Made
from .parameters import FIELDS
from .walk import as_text, scalar

Said: TypeAlias = Mapping[str, Any]
MOST_LORAS = 64
PROMPTS = ("prompt", "negative")  # which may be none, where other words that are empty are not known
_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_SETTINGS = dict(FIELDS.values())
_SETTINGS |= {"width": _SETTINGS["steps"], "height": _SETTINGS["steps"]}


def read(texts: Mapping[str, str], comments: Sequence[str]) -> tuple[Made, str] | None:
    """How a picture was made and its model's hash, by its texts by their names, or by EXIF's comments; None where none of
    them is one of those programs' own.  What has another form than theirs is unknown."""
    for text in (texts.get("parameters", ""), *comments):
        said = _object(text)
        if isinstance(swarm := said.get("sui_image_params"), Mapping):
            return _swarm(swarm), ""
        if said.get("metadata_scheme") == "fooocus":
            return _fooocus(said), _word(said, "base_model_hash") or ""
        if said.get("software") == "RuinedFooocus":
            return _ruined(said), _word(said, "base_model_hash") or ""
        if {"c", "uc", "seed", "steps"} <= said.keys():
            return _draw_things(said), ""
    if old := _object(texts.get("sd-metadata", "")):
        return _old_invoke(old), _word(old, "model_hash") or ""
    if {"prompt", "seed", "num_inference_steps"} <= texts.keys():
        return _easy_diffusion(texts), ""
    if invoke := _object(texts.get("invokeai_metadata", "")):
        return _invoke(invoke), ""
    if texts.get("Software") == "NovelAI" and (novel := _object(texts.get("Comment", ""))):
        return _novel({"prompt": texts.get("Description"), **novel}, texts.get("Source")), ""
    return None


def _swarm(said: Said) -> Made:
    names, weights = (each if isinstance(each := said.get(name), list) else [] for name in ("loras", "loraweights"))
    pairs = list(zip(names, weights, strict=True)) if names and len(names) == len(weights) else None
    return _made(
        said,
        {"prompt": "prompt", "negative": "negativeprompt", "model": "model", "sampler": "sampler", "scheduler": "scheduler"},
        {"seed": "seed", "steps": "steps", "cfg": "cfgscale", "guidance": "fluxguidancescale", "width": "width", "height": "height"},
        loras=_loras(pairs, lambda each: each),
    )  # fmt: skip


def _fooocus(said: Said) -> Made:
    resolution = re.fullmatch(r"\((\d{1,5}), (\d{1,5})\)", str(said.get("resolution")))
    width, height = resolution.groups() if resolution else ("", "")
    return _made(
        {**said, "width": width, "height": height},
        {"prompt": "prompt", "negative": "negative_prompt", "model": "base_model", "sampler": "sampler", "scheduler": "scheduler"},
        {"seed": "seed", "steps": "steps", "cfg": "guidance_scale", "width": "width", "height": "height"},
        loras=_loras(said.get("loras"), lambda each: each[:2]),
    )  # fmt: skip


def _invoke(said: Said) -> Made:
    def named(model: Any) -> Any:
        return model.get("name", model.get("model_name"))

    def whole(side: str) -> str | None:
        """A prompt with that of SDXL's second encoder, where it has another."""
        told = [_word(said, f"{side}_{name}") for name in ("prompt", "style_prompt")]
        return None if told[0] is None else "\n".join(dict.fromkeys(filter(None, told)))

    model = said.get("model")
    again = "img2img" in str(said.get("generation_mode"))
    prompts = {f"{side}_prompt": whole(side) for side in ("positive", "negative")}
    return _made(
        {**said, **prompts, "model": named(model) if isinstance(model, Mapping) else None},
        {"prompt": "positive_prompt", "negative": "negative_prompt", "model": "model", "sampler": "scheduler"},
        {"seed": "seed", "steps": "steps", "cfg": "cfg_scale", "guidance": "guidance", "width": "width", "height": "height",
         **({"denoise": "strength"} if again else {})},
        loras=_loras(said.get("loras"), lambda each: (named(each.get("model", each.get("lora"))), each["weight"])),
    )  # fmt: skip


def _old_invoke(said: Said) -> Made:
    """InvokeAI's before 3.0, where what is in brackets in a prompt is its negative part."""
    image = said.get("image")
    image = image if isinstance(image, Mapping) else {}
    prompts = image.get("prompt")
    prompts = [{"prompt": prompts}] if isinstance(prompts, str) else prompts if isinstance(prompts, list) else []
    told = [_word(each, "prompt") if isinstance(each, Mapping) else None for each in prompts]
    text = told[0] if len(told) == 1 else None
    again = image.get("type") == "img2img"
    return _made(
        {**image, "prompt": text and _IN_BRACKETS.sub("", text).strip(), "model": said.get("model_weights"),
         "negative": None if text is None else " ".join(_IN_BRACKETS.findall(text))},
        {"prompt": "prompt", "negative": "negative", "model": "model", "sampler": "sampler"},
        {"seed": "seed", "steps": "steps", "cfg": "cfg_scale", "width": "width", "height": "height",
         **({"denoise": "strength"} if again else {})},
        loras=None,
    )  # fmt: skip


def _ruined(said: Said) -> Made:
    return _made(
        said,
        {"prompt": "Prompt", "negative": "Negative", "model": "base_model_name", "sampler": "sampler_name", "scheduler": "scheduler"},
        {"seed": "seed", "steps": "steps", "cfg": "cfg", "denoise": "denoise", "width": "width", "height": "height"},
        loras=None,
    )  # fmt: skip


def _draw_things(said: Said) -> Made:
    width, _, height = str(said.get("size")).partition("x")
    return _made(
        {**said, "width": width, "height": height},
        {"prompt": "c", "negative": "uc", "model": "model", "sampler": "sampler"},
        {"seed": "seed", "steps": "steps", "cfg": "scale", "denoise": "strength", "width": "width", "height": "height"},
        loras=None,
    )


def _easy_diffusion(said: Said) -> Made:
    """Its settings, each a text of the PNG."""
    return _made(
        said,
        {"prompt": "prompt", "negative": "negative_prompt", "model": "use_stable_diffusion_model", "sampler": "sampler_name"},
        {"seed": "seed", "steps": "num_inference_steps", "cfg": "guidance_scale", "width": "width", "height": "height"},
        loras=None,
    )  # fmt: skip


def _novel(said: Said, source: str | None) -> Made:
    def whole(text: str, parts: str) -> str | None:
        """A prompt with its characters' own."""
        if said.get(parts) is None:
            return _word(said, text)
        try:
            characters = [each["char_caption"] for each in said[parts]["caption"]["char_captions"]]
            return "\n".join(filter(None, [said[parts]["caption"]["base_caption"], *characters]))
        except (KeyError, TypeError):
            return None

    prompts = {"prompt": whole("prompt", "v4_prompt"), "negative": whole("uc", "v4_negative_prompt"), "model": source}
    return _made(
        {**said, **prompts},
        {"prompt": "prompt", "negative": "negative", "model": "model", "sampler": "sampler", "scheduler": "noise_schedule"},
        {"seed": "seed", "steps": "steps", "cfg": "scale", "width": "width", "height": "height"},
        loras=None,
    )  # fmt: skip


# -- values ---------------------------------------------------------------------------------------------


def _object(text: str) -> Said:
    if not text.lstrip().startswith("{"):
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _made(said: Said, words: Mapping[str, str], numbers: Mapping[str, str], loras: tuple[Lora, ...] | None) -> Made:
    found: dict[str, Any] = {field: _word(said, name) for field, name in words.items()}
    found |= dict.fromkeys((field for field in words if found[field] == "" and field not in PROMPTS), None)
    for field, name in numbers.items():
        value = said.get(name)
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                found[field] = _SETTINGS[field](str(value))
            except ValueError:
                continue
    return Made(**found, loras=loras)


def _word(said: Said, name: str) -> str | None:
    return as_text(scalar(as_text(said.get(name))))


def _loras(given: Any, pair: Callable[[Any], Any]) -> tuple[Lora, ...] | None:
    """Names and strengths; None where one cannot be read."""
    if not isinstance(given, list) or len(given) > MOST_LORAS:
        return None
    found: list[Lora] = []
    for each in given:
        try:
            name, strength = pair(each)
            strength = scalar(float(strength))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None
        if not isinstance(name, str) or not isinstance(strength, float) or scalar(name) is None:
            return None
        found.append((name, strength))
    return tuple(found)
