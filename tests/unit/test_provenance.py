"""What a picture says of its own making: right, or left out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_dt.demo import database
from luna_dt.demo.drawing import random_scene
from luna_dt.provenance import Made, parameters
from luna_dt.provenance.graph import linked, read

Graph = dict[str, Any]


def n(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node; a link is written as (node, output)."""
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}


def text(words: Any, kind: str = "CLIPTextEncode", **more: Any) -> dict[str, Any]:
    return n(kind, text=words, clip=("model", 1), **more)


def k(**more: Any) -> dict[str, Any]:
    told = {
        "seed": 7, "steps": 20, "cfg": 6.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0,
        "model": ("model", 0), "positive": ("pos", 0), "negative": ("neg", 0), "latent_image": ("empty", 0),
    }  # fmt: skip
    return n("KSampler", **{**told, **more})


def advanced(**more: Any) -> dict[str, Any]:
    told = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable"}
    made = k(**{**told, **more})
    made["class_type"] = "KSamplerAdvanced"
    inputs = made["inputs"]
    inputs["noise_seed"] = inputs.pop("seed")
    del inputs["denoise"]
    return made


PLAIN: Graph = {
    "model": n("CheckpointLoaderSimple", ckpt_name="dream.safetensors"),
    "pos": text("a fox"),
    "neg": text("blurry"),
    "empty": n("EmptyLatentImage", width=640, height=512, batch_size=1),
    "s": k(),
    "decode": n("VAEDecode", samples=("s", 0), vae=("model", 2)),
    "out": n("SaveImage", images=("decode", 0), filename_prefix="x"),
}
TOLD = Made(
    "a fox", "blurry", 7, 20, 6.5, 1.0, "euler", "karras", "dream.safetensors", (), width=640, height=512
)  # fmt: skip


def plain(**nodes: Any) -> Graph:
    return {**PLAIN, **nodes}


def flux(**nodes: Any) -> Graph:
    return {
        **plain(
            model=n("UNETLoader", unet_name="flux.safetensors", weight_dtype="default"),
            guided=n("FluxGuidance", guidance=3.5, conditioning=("pos", 0)),
            guider=n("BasicGuider", model=("model", 0), conditioning=("guided", 0)),
            noise=n("RandomNoise", noise_seed=2**64 - 1),
            method=n("KSamplerSelect", sampler_name="euler"),
            sigmas=n("BasicScheduler", scheduler="simple", steps=28, denoise=1.0, model=("model", 0)),
            s=n("SamplerCustomAdvanced", noise=("noise", 0), guider=("guider", 0), sampler=("method", 0),
                sigmas=("sigmas", 0), latent_image=("empty", 0)),
        ),
        **nodes,
    }  # fmt: skip


FLUX = replace(
    TOLD, negative="", seed=2**64 - 1, steps=28, cfg=None, scheduler="simple", model="flux.safetensors", guidance=3.5
)
SECOND = {
    "up": n("LatentUpscaleBy", samples=("s", 0), upscale_method="nearest", scale_by=1.5),
    "s2": k(seed=99, steps=12, denoise=0.5, latent_image=("up", 0), model=("other", 0)),
    "other": n("CheckpointLoaderSimple", ckpt_name="other.safetensors"),
    "decode": n("VAEDecode", samples=("s2", 0), vae=("model", 2)),
}


def lora(model: str, name: str, strength: Any, kind: str = "LoraLoader") -> dict[str, Any]:
    return n(kind, model=(model, 0), clip=("model", 1), lora_name=name, strength_model=strength, strength_clip=strength)


def changed(told: Made = TOLD, **changes: Any) -> Made:
    return replace(told, **changes)


def switched(kind: str, **inputs: Any) -> Graph:
    return plain(neg2=text("ugly"), switch=n(kind, **inputs), s=k(negative=("switch", 0)))


def easy(**more: Any) -> Graph:
    told = {"ckpt_name": "dream.safetensors", "lora_name": "None", "positive": "a fox", "negative": "blurry",
            "empty_latent_width": 640, "empty_latent_height": 512}  # fmt: skip
    return plain(
        model=n("easy fullLoader", **{**told, **more}),
        s=k(model=("model", 1), positive=("model", 4), negative=("model", 5), latent_image=("model", 6)),
    )


TWO = {"b": text("at night"), "s": k(positive=("both", 0))}
CUSTOM: dict[str, Any] = {
    "add_noise": True, "noise_seed": 5, "cfg": 8.0, "model": ("model", 0), "positive": ("pos", 0), "negative": ("neg", 0),
    "sampler": ("method", 0), "sigmas": ("sigmas", 0), "latent_image": ("empty", 0),
}  # fmt: skip
APPLIED = {
    "positive": ("pos", 0),
    "negative": ("neg", 0),
    "control_net": ("net", 0),
    "image": ("ref", 0),
    "strength": 1.0,
}
REF = {"ref": n("LoadImage", image="ref.png")}

GRAPHS: dict[str, tuple[Graph, Made]] = {
    "plain": (PLAIN, TOLD),
    "zeroed negative": (plain(neg=n("ConditioningZeroOut", conditioning=("pos", 0))), changed(negative="")),
    "empty negative": (plain(neg=text("")), changed(negative="")),
    "zeroed and a text": (
        plain(zero=n("ConditioningZeroOut", conditioning=("pos", 0)),
              both=n("ConditioningCombine", conditioning_1=("zero", 0), conditioning_2=("neg", 0)),
              s=k(negative=("both", 0))), TOLD),
    "combined": (plain(**TWO, both=n("ConditioningCombine", conditioning_1=("pos", 0), conditioning_2=("b", 0))),
                 changed(prompt="a fox\nat night")),
    "concatenated": (plain(**TWO, both=n("ConditioningConcat", conditioning_to=("pos", 0), conditioning_from=("b", 0))),
                     changed(prompt="a fox\nat night")),
    "combined with itself": (
        plain(**TWO, both=n("ConditioningCombine", conditioning_1=("pos", 0), conditioning_2=("pos", 0))), TOLD),
    "averaged": (
        plain(**TWO, both=n("ConditioningAverage", conditioning_to=("pos", 0), conditioning_from=("b", 0),
                            conditioning_to_strength=0.5)), changed(prompt="a fox\nat night")),
    "averaged to one": (
        plain(**TWO, both=n("ConditioningAverage", conditioning_to=("pos", 0), conditioning_from=("b", 0),
                            conditioning_to_strength=1.0)), TOLD),
    "area, mask, timesteps": (
        plain(a=n("ConditioningSetArea", conditioning=("pos", 0), width=64), b=n("ConditioningSetMask", conditioning=("a", 0)),
              c=n("ConditioningSetTimestepRange", conditioning=("b", 0), start=0.0, end=0.5), s=k(positive=("c", 0))), TOLD),
    "controlnet": (plain(**REF, net=n("ControlNetLoader", control_net_name="c"), c=n("ControlNetApplyAdvanced", **APPLIED),
                         s=k(positive=("c", 0), negative=("c", 1))), TOLD),
    "controlnet, crossed": (
        plain(**REF, c=n("ControlNetApplyAdvanced", **APPLIED), s=k(positive=("c", 1), negative=("c", 0))),
        changed(prompt="blurry", negative="a fox")),
    "controlnet, simple": (plain(c=n("ControlNetApply", conditioning=("pos", 0)), s=k(positive=("c", 0))), TOLD),
    "unclip and style": (
        plain(u=n("unCLIPConditioning", conditioning=("pos", 0), clip_vision_output=("v", 0)),
              t=n("StyleModelApply", conditioning=("u", 0), style_model=("m", 0)), s=k(positive=("t", 0))), TOLD),
    "unknown, with both": (plain(c=n("SomeApply", **APPLIED), s=k(positive=("c", 0), negative=("c", 1))), TOLD),
    "unknown, with more conditioning": (
        plain(b=text("at night"), c=n("Mix", conditioning=("pos", 0), conditioning_b=("b", 0)), s=k(positive=("c", 0))),
        changed(prompt=None)),
    "nag": (plain(nag=text("ugly"), neg=n("ConditioningZeroOut", conditioning=("pos", 0)),
                  s={**k(nag_negative=("nag", 0), nag_scale=5.0), "class_type": "KSamplerWithNAG"}), changed(negative="ugly")),
    "unknown, with words": (plain(c=n("AddWords", conditioning=("pos", 0), text="night"), s=k(positive=("c", 0))),
                            changed(prompt=None)),
    "unknown encoder": (plain(pos=text("a {fox|cat}", "WildcardEncode")), changed(prompt=None)),
    "sdxl": (plain(pos=n("CLIPTextEncodeSDXL", text_g="a fox", text_l="a fox", width=1024)), TOLD),
    "sdxl, two": (plain(pos=n("CLIPTextEncodeSDXL", text_g="a fox", text_l="red")), changed(prompt="a fox\nred")),
    "sdxl, one empty": (plain(pos=n("CLIPTextEncodeSDXL", text_g="a fox", text_l="")), TOLD),
    "sd3": (plain(pos=n("CLIPTextEncodeSD3", clip_l="a fox", clip_g="a fox", t5xxl="a fox at night", empty_padding="none")),
            changed(prompt="a fox\na fox at night")),
    "flux encoder": (plain(pos=n("CLIPTextEncodeFlux", clip_l="a fox", t5xxl="a fox", guidance=4.0)), changed(guidance=4.0)),
    "hunyuan": (plain(pos=n("CLIPTextEncodeHunyuanDiT", bert="a fox", mt5xl="a fox")), TOLD),
    "lumina": (plain(pos=n("CLIPTextEncodeLumina2", system_prompt="superior", user_prompt="a fox")), TOLD),
    "pixart": (plain(pos=text("a fox", "CLIPTextEncodePixArtAlpha", width=1024)), TOLD),
    "hidream": (plain(pos=n("CLIPTextEncodeHiDream", clip_l="a fox", clip_g="a fox", t5xxl="a fox", llama="a fox")), TOLD),
    "qwen edit": (plain(pos=n("TextEncodeQwenImageEdit", clip=("c", 0), prompt="a fox", image=("ref", 0)), **REF), TOLD),
    "linked text": (plain(pos=text(("words", 0)), words=n("PrimitiveStringMultiline", value="a fox")), TOLD),
    "joined text": (
        plain(pos=text(("both", 0)), x=n("PrimitiveString", value="fox"),
              both=n("StringConcatenate", string_a="a", string_b=("x", 0), delimiter=" ")), TOLD),
    "joined with what is unknown": (
        plain(pos=text(("both", 0)), x=n("SomeChat", prompt="say"),
              both=n("StringConcatenate", string_a="a", string_b=("x", 0), delimiter=" ")), changed(prompt=None)),
    "a primitive and a reroute": (
        plain(pos=text(("way", 0)), way=n("Reroute", anything=("p", 0)), p=n("PrimitiveNode", value="a fox")), TOLD),
    "linked numbers": (
        plain(s=k(seed=("i", 0), steps=("j", 0), cfg=("f", 0)), i=n("PrimitiveInt", value=7), j=n("INTConstant", value=20),
              f=n("PrimitiveFloat", value=6.5)), TOLD),
    "numbers nobody knows": (plain(s=k(seed=("i", 0), steps=("i", 1), cfg=("i", 2)), i=n("Rolled", sides=6)),
                             changed(seed=None, steps=None, cfg=None)),
    "our injector": (plain(pos=text(("dt", 0)), neg=text(("dt", 1)), s=k(steps=("dt", 5)),
                           dt=n("LunaDTPromptInjector", image_id=3, prompt_override="", negative_override="blurry")),
                     changed(prompt=None, steps=None)),
    "our loader's prompt": (plain(pos=text(("dt", 1)), dt=n("LunaDTImageLoader", image_id=3)), changed(prompt=None)),
    "switch on": (switched("ComfySwitchNode", switch=True, on_true=("neg2", 0), on_false=("neg", 0)), changed(negative="ugly")),
    "switch off": (switched("ComfySwitchNode", switch=False, on_true=("neg2", 0), on_false=("neg", 0)), TOLD),
    "switch by number": (switched("ImpactSwitch", select=2, input1=("neg", 0), input2=("neg2", 0)), changed(negative="ugly")),
    "switch set by another node": (
        {**switched("ComfySwitchNode", switch=("way", 0), on_true=("neg2", 0), on_false=("neg", 0)), "way": n("Reroute", x=("b", 0)),
         "b": n("PrimitiveBoolean", value=True)}, changed(negative="ugly")),
    "numbers by a switch": (
        plain(s=k(steps=("x", 0)), x=n("ComfySwitchNode", switch=("b", 0), on_true=4, on_false=("i", 0)), i=n("PrimitiveInt", value=20),
              b=n("PrimitiveBoolean", value=False)), TOLD),
    "switch set by what nobody knows": (
        {**switched("ComfySwitchNode", switch=("b", 0), on_true=("neg2", 0), on_false=("neg", 0)), "b": n("Rolled"),
         "way": n("Reroute", x=("way", 0))}, changed(negative=None)),
    "switch set in a circle": (
        {**switched("ComfySwitchNode", switch=("way", 0), on_true=("neg2", 0), on_false=("neg", 0)), "way": n("Reroute", x=("way", 0))},
        changed(negative=None)),
    "texts of other packs": (
        plain(pos=text(("f", 0)), neg=text(("shown", 0)),
              f=n("StringFunction|pysssss", action="append", tidy_tags="no", text_a=("w", 0), text_b=("r", 0), text_c=("t", 0)),
              w=n("Text Concatenate", text_a="a", text_b="", delimiter=" ", clean_whitespace="false"),
              r=n("StringReplace", string="_cat", find="_cat", replace=" "), t=n("StringTrim", string=" fox ", mode="Both"),
              shown=n("PreviewAny", source=("c", 0)), c=n("easy promptConcat", prompt1="blur", prompt2="ry", separator="")), TOLD),
    "texts that are formed nobody knows how": (
        plain(pos=text(("f", 0)), neg=text(("t", 0)), t=n("Text Multiline", text="[time] blurry"),
              f=n("StringFunction|pysssss", action="replace", tidy_tags="no", text_a="a cat", text_b="/c.t/", text_c="fox")),
        changed(prompt=None, negative=None)),
    "text that would grow without end": (
        plain(pos=text(("f", 0)), f=n("StringReplace", string="x" * 90_000, find="x", replace="x" * 90_000)), changed(prompt=None)),
    "a wildcard that was drawn": (
        plain(pos=n("ImpactWildcardEncode", model=("model", 0), clip=("model", 1), wildcard_text="a {fox|cat}", seed=3,
                    populated_text="a fox", mode="populate", **{"Select to add LoRA": "Select the LoRA to add to the text"}),
              s=k(model=("pos", 0), positive=("pos", 2))), TOLD),
    "a wildcard nobody knows": (plain(pos=text(("w", 0)), w=n("DPRandomGenerator", text="a {fox|cat}", seed=1)), changed(prompt=None)),
    "efficient loader": (
        plain(model=n("Efficient Loader", ckpt_name="dream.safetensors", lora_name="a", lora_model_strength=0.5,
                      lora_clip_strength=1.0, positive="a fox", negative="", empty_latent_width=640, empty_latent_height=512),
              s={**k(positive=("model", 1), negative=("model", 2), latent_image=("model", 3)), "class_type": "KSampler (Efficient)"},
              decode=n("Reroute", x=("s", 5))), changed(negative="", loras=(("a", 0.5),))),
    "rgthree's bundles": (
        plain(c=n("Context (rgthree)", model=("model", 0), positive=("pos", 0), negative=("neg", 0), seed=("i", 0)),
              d=n("Context Big (rgthree)", base_ctx=("c", 0), latent=("empty", 0), negative=("neg2", 0), steps=("j", 0)),
              e=n("Context Switch Big (rgthree)", ctx_02=("d", 0), ctx_03=("c", 0)), i=n("PrimitiveInt", value=7),
              j=n("PrimitiveInt", value=20), neg2=text("ugly"),
              s=k(model=("e", 1), positive=("e", 4), negative=("e", 5), latent_image=("e", 6), seed=("e", 8), steps=("e", 9))),
        changed(negative="ugly")),
    "rgthree's bundle without that": (plain(c=n("Context (rgthree)", model=("model", 0)), s=k(positive=("c", 4))), changed(prompt=None)),
    "rgthree's switch": (plain(pos=text(("any", 0)), any=n("Any Switch (rgthree)", any_02=("x", 0), any_03=("y", 0)),
                               x=n("PrimitiveString", value="a fox"), y=n("PrimitiveString", value="a cat")), TOLD),
    "a switch of texts": (plain(pos=text(("x", 0)), x=n("easy textSwitch", input=2, text1="a cat", text2="a fox")), TOLD),
    "loras of the manager": (
        plain(a=n("Lora Loader (LoraManager)", model=("model", 0), text="<lora:a:0.8> <lora:b:1>", loras={"__value__": [
            {"name": "a", "strength": "0.8", "active": True}, {"name": "b", "strength": 1, "active": False}]}),
              pos=n("Prompt (LoraManager)", text="a fox", clip=("a", 1)), s=k(model=("a", 0))), changed(loras=(("a", 0.8),))),
    "a prompt with trigger words": (plain(pos=n("Prompt (LoraManager)", text="a fox", trigger_words=("x", 0)), x=n("Toggle")),
                                    changed(prompt=None)),
    "loras by tags": (plain(a=n("LoraTagLoader", model=("model", 0), text="x <lora:s/a:0.8> <lora:b> <lora:c:1:2>"), s=k(model=("a", 0))),
                      changed(loras=(("s/a", 0.8), ("b", None), ("c", 1.0)))),
    "loras of which a node says nothing": (plain(a=n("SomeLoraLoader", model=("model", 0), choice="a"), s=k(model=("a", 0))),
                                           changed(loras=None)),
    "LoRAs by another name": (plain(a=n("LycorisLoaderNode", model=("model", 0), lycoris_name="a"), s=k(model=("a", 0))),
                              changed(loras=None)),
    "a lora by its strength only": (plain(a=n("IPAdapterUnifiedLoaderFaceID", model=("model", 0), lora_strength=0.6),
                                          s=k(model=("a", 0))), changed(loras=None)),
    "loras": (
        plain(a=lora("model", "a.safetensors", 0.8), b=lora("a", "b.safetensors", -0.5, "LoraLoaderModelOnly"),
              c=lora("b", "c.safetensors", 0.0), s=k(model=("c", 0))),
        changed(loras=(("a.safetensors", 0.8), ("b.safetensors", -0.5)))),
    "lora of unknown strength": (plain(a=lora("model", "a", ("roll", 0)), roll=n("Rolled"), s=k(model=("a", 0))),
                                 changed(loras=(("a", None),))),
    "power loras": (
        plain(a={"class_type": "Power Lora Loader (rgthree)", "inputs": {
            "PowerLoraLoaderHeaderWidget": {"type": "x"}, "model": ["model", 0], "+ Add Lora": "",
            "lora_1": {"on": True, "lora": "a", "strength": 1}, "lora_2": {"on": False, "lora": "b", "strength": 1}}},
              s=k(model=("a", 0))), changed(loras=(("a", 1.0),))),
    "a lora that hooks on the encoder": (
        plain(h=n("CreateHookLora", lora_name="a", strength_model=1.0, strength_clip=1.0), c=n("SetClipHooks", clip=("model", 1),
              hooks=("h", 0), apply_to_conds=True), pos=n("CLIPTextEncode", text="a fox", clip=("c", 0))), changed(loras=None)),
    "a lora that hooks on the conditioning": (
        plain(h=n("CreateHookLoraModelOnly", lora_name="a", strength_model=1.0),
              c=n("ConditioningSetProperties", cond_NEW=("pos", 0), hooks=("h", 0)), s=k(positive=("c", 0))), changed(loras=None)),
    "a lora that is switched off": (plain(a=n("CR Load LoRA", model=("model", 0), switch="Off", lora_name="a", strength_model=1.0),
                                          s=k(model=("a", 0))), TOLD),
    "a lora that is switched on": (plain(a=n("CR Load LoRA", model=("model", 0), switch="On", lora_name="a", strength_model=1.0),
                                         s=k(model=("a", 0))), changed(loras=(("a", 1.0),))),
    "a lora that nobody knows to be on": (
        plain(a=n("CR Load LoRA", model=("model", 0), switch=("x", 0), lora_name="a", strength_model=1.0), s=k(model=("a", 0))),
        changed(loras=None)),
    "a full loader": (easy(), TOLD),
    "a full loader with a size of its list": (easy(resolution="832 x 1216"), changed(width=None, height=None)),
    "a full loader with another model": (easy(model_override=("other", 0)), changed(model=None, loras=None)),
    "a full loader with wildcards": (easy(positive="a {fox|cat}", negative="__bad__"), changed(prompt=None, negative=None)),
    "a full loader with loras in its text": (easy(positive="a fox <lora:x:1>"), changed(prompt=None, loras=None)),
    "a stack of loras": (plain(a=n("Lora Loader Stack (rgthree)", model=("model", 0), lora_01="a", strength_01=0.7,
                                   lora_02="None", strength_02=1.0), s=k(model=("a", 0))), changed(loras=(("a", 0.7),))),
    "loras nobody knows": (plain(a=n("StackApply", model=("model", 0), lora_stack=("x", 0)), s=k(model=("a", 0))),
                           changed(loras=None)),
    "model sampling": (plain(a=n("ModelSamplingSD3", model=("model", 0), shift=3.0), b=n("FreeU", model=("a", 0), b1=1.1),
                             s=k(model=("b", 0))), TOLD),
    "merged models": (plain(a=n("ModelMergeSimple", model1=("model", 0), model2=("model", 0), ratio=0.5), s=k(model=("a", 0))),
                      changed(model=None, loras=None)),
    "gguf": (plain(a=n("UnetLoaderGGUF", unet_name="flux-Q4.gguf"), s=k(model=("a", 0))), changed(model="flux-Q4.gguf")),
    "a choice with its picture": (
        plain(model=n("CheckpointLoader|pysssss", ckpt_name={"content": "dream.safetensors", "image": None})), TOLD),
    "second pass": (plain(**SECOND), TOLD),
    "second pass over pixels": (
        plain(**{**SECOND, "d": n("VAEDecodeTiled", samples=("s", 0)), "up": n("VAEEncode", pixels=("big", 0)),
                 "big": n("ImageUpscaleWithModel", upscale_model=("u", 0), image=("d", 0)),
                 "u": n("UpscaleModelLoader", model_name="4x.pth")}), TOLD),
    "made anew": (plain(**{**SECOND, "s2": k(seed=99, latent_image=("up", 0))}), changed(seed=99, width=None, height=None)),
    "a pass of unknown denoise": (
        plain(**{**SECOND, "s2": k(seed=99, denoise=("roll", 0), latent_image=("up", 0)), "roll": n("Rolled")}),
        changed(seed=None, denoise=None, width=None, height=None)),
    "inpainted whole": (
        plain(**{**SECOND, "up": n("SetLatentNoiseMask", samples=("s", 0), mask=("m", 0)),
                 "s2": k(seed=99, latent_image=("up", 0))}), changed(seed=None, width=None, height=None)),
    "inpainted, in a batch": (
        plain(**{**SECOND, "up": n("RepeatLatentBatch", samples=("m", 0), amount=2), "m": n("SetLatentNoiseMask", samples=("s", 0), mask=("x", 0)),
                 "s2": k(seed=99, latent_image=("up", 0))}), changed(seed=None, width=None, height=None)),
    "inpainted by another pack": (
        plain(**{**SECOND, "up": n("INPAINT_VAEEncodeInpaintConditioning", pixels=("d", 0), mask=("x", 0)), "d": n("VAEDecode", samples=("s", 0)),
                 "s2": k(seed=99, latent_image=("up", 2))}), changed(seed=None, width=None, height=None)),
    "image to image": (plain(**REF, empty=n("VAEEncode", pixels=("ref", 0)), s=k(denoise=0.6)),
                       changed(denoise=0.6, width=None, height=None)),
    "base and refiner": (
        plain(s=advanced(end_at_step=16, return_with_leftover_noise="enable"),
              s2=advanced(seed=0, add_noise="disable", start_at_step=16, latent_image=("s", 0), model=("other", 0)),
              other=n("CheckpointLoaderSimple", ckpt_name="refiner"), decode=n("VAEDecode", samples=("s2", 0))), TOLD),
    "advanced in the middle": (plain(s=advanced(start_at_step=5)), changed(denoise=None)),
    "advanced without noise": (plain(s=advanced(add_noise="disable")), changed(seed=None, denoise=None)),
    "custom": (
        plain(s=n("SamplerCustom", **CUSTOM), method=n("SamplerDPMPP_2M_SDE", noise_device="gpu"),
              sigmas=n("KarrasScheduler", steps=15, sigma_max=14.6)),
        changed(seed=5, steps=15, cfg=8.0, denoise=None, sampler="dpmpp_2m_sde_gpu")),
    "turbo": (
        plain(s=n("SamplerCustom", **CUSTOM), method=n("KSamplerSelect", sampler_name="lcm"),
              sigmas=n("SDTurboScheduler", model=("model", 0), steps=1, denoise=1.0)),
        changed(seed=5, steps=1, cfg=8.0, sampler="lcm", scheduler=None)),
    "flux": (flux(), FLUX),
    "flux, its denoised output": (flux(decode=n("VAEDecode", samples=("s", 1))), FLUX),
    "flux, in a subgraph": (
        {("12:" + key if key != "out" else key): {**node, "inputs": {
            name: [f"12:{value[0]}", value[1]] if isinstance(value, list) else value for name, value in node["inputs"].items()}}
         for key, node in flux().items()}, FLUX),
    "cfg guider": (flux(guider=n("CFGGuider", model=("model", 0), positive=("pos", 0), negative=("neg", 0), cfg=3.0)),
                   changed(FLUX, negative="blurry", cfg=3.0, guidance=None)),
    "two guided": (
        flux(guider=n("DualCFGGuider", model=("model", 0), cond1=("pos", 0), cond2=("x", 0), negative=("neg", 0), cfg_conds=5.0,
                      cfg_cond2_negative=2.0)), changed(FLUX, negative="blurry", guidance=None)),
    "unknown guider": (flux(guider=n("OddGuider", things=("pos", 0))),
                       changed(FLUX, prompt=None, negative=None, model=None, loras=None, guidance=None)),
    "unknown noise": (flux(noise=n("MixedNoise", noise1=("a", 0), noise2=("b", 0))), changed(FLUX, seed=None)),
    "split in two": (
        flux(split=n("SplitSigmas", sigmas=("sigmas", 0), step=10), still=n("DisableNoise"), s=flux()["s"] | {
            "inputs": {**flux()["s"]["inputs"], "sigmas": ["split", 0]}},
             s2=n("SamplerCustomAdvanced", noise=("still", 0), guider=("guider", 0), sampler=("method", 0),
                  sigmas=("split", 1), latent_image=("s", 0)), decode=n("VAEDecode", samples=("s2", 0))), FLUX),
    "detailed sigmas": (flux(sigmas2=n("MultiplySigmas", sigmas=("sigmas", 0), factor=1.1), s=flux()["s"] | {
        "inputs": {**flux()["s"]["inputs"], "sigmas": ["sigmas2", 0]}}), FLUX),
    "turned around": (flux(flip=n("FlipSigmas", sigmas=("sigmas", 0)), s=flux()["s"] | {
        "inputs": {**flux()["s"]["inputs"], "sigmas": ["flip", 0]}}), changed(FLUX, steps=None, scheduler=None, denoise=None)),
    "flux 2": (flux(sigmas=n("Flux2Scheduler", steps=4, width=1024, height=1024)),
               changed(FLUX, steps=4, scheduler=None, denoise=None)),
    "faces mended": (
        plain(face=n("FaceDetailer", image=("decode", 0), model=("other", 0), positive=("neg", 0), negative=("pos", 0), seed=3,
                     steps=5, cfg=1.0, sampler_name="dpm", scheduler="x", denoise=0.4),
              out=n("SaveImage", images=("face", 0))), TOLD),
    "scaled and sharpened": (
        plain(a=n("ImageScale", image=("decode", 0), width=99), b=n("Sharpen", image=("a", 0)),
              out=n("LunaDTMetadataWriter", image=("b", 0), base=("z", 1))), TOLD),
    "pasted on a picture": (plain(**REF, a=n("ImageCompositeMasked", destination=("ref", 0), source=("decode", 0), mask=("m", 0)),
                                  out=n("SaveImage", images=("a", 0))), TOLD),
    "two samplers side by side": (
        plain(s2=k(seed=8), d2=n("VAEDecode", samples=("s2", 0)), a=n("ImageBatch", image1=("decode", 0), image2=("d2", 0)),
              out=n("SaveImage", images=("a", 0))), changed(seed=None)),
    "cascade": (
        plain(c=k(latent_image=("empty", 0)), zero=n("ConditioningZeroOut", conditioning=("pos", 0)),
              b=n("StableCascade_StageB_Conditioning", conditioning=("zero", 0), stage_c=("c", 0)),
              s=k(seed=1, cfg=1.1, positive=("b", 0), model=("other", 0), latent_image=("x", 0))), TOLD),
    "another's sampler": (
        plain(s={**k(), "class_type": "KSampler (Efficient)"}, decode=n("Reroute", x=("s", 5)),), TOLD),
    "a picture from elsewhere": (plain(**REF, out=n("SaveImage", images=("ref", 0))), Made()),
    "a node that is missing": (plain(out=n("SaveImage", images=("gone", 0))), Made()),
    "a latent that is missing": (plain(s=k(denoise=0.5, latent_image=("gone", 0))), Made()),
    "painted over by a service": (
        plain(api=n("GeminiImageNode", prompt="make it night", model="gemini", seed=42, images=("decode", 0)),
              out=n("SaveImage", images=("api", 0))), Made()),
    "many ways": (plain(odd=n("Odd", a=("decode", 0), b=("s", 0)), out=n("SaveImage", images=("odd", 0))), Made()),
    "a circle": (plain(empty=n("LatentFlip", samples=("s2", 0)), s=k(denoise=0.5), s2=k(denoise=0.4, latent_image=("s", 0)),
                       decode=n("VAEDecode", samples=("s2", 0))), Made()),
    "values that cannot be": (
        plain(s=k(seed=-1, steps=0, cfg=float("nan"), denoise=1.0, sampler_name=5, scheduler=None)),
        changed(seed=None, steps=None, cfg=None, sampler=None, scheduler=None)),
    "no text at all": (plain(pos=text(5), neg=text("\ud800")), changed(prompt=None, negative=None)),
}  # fmt: skip


def test_there_are_sixty_graphs() -> None:
    assert len(GRAPHS) >= 60


@pytest.mark.parametrize("name", list(GRAPHS))
def test_a_graph_is_read_right_or_left_out(name: str) -> None:
    graph, told = GRAPHS[name]
    assert read(graph, "out") == told


def test_the_inputs_that_another_node_sets() -> None:
    assert linked(PLAIN, "decode") == {"samples", "vae"}
    assert linked(PLAIN, "nobody") == linked(None, 3) == set()


def test_a_sampler_may_be_asked_itself() -> None:
    assert read({int(key) if key.isdigit() else key: node for key, node in PLAIN.items()}, "s") == TOLD


# -- hostile graphs -----------------------------------------------------------------------------------

KINDS = [
    "KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced", "CLIPTextEncode", "ConditioningCombine", "ConditioningZeroOut",
    "StringConcatenate", "PrimitiveInt", "Reroute", "ImpactSwitch", "LoraLoader", "CheckpointLoaderSimple", "SplitSigmas",
    "BasicScheduler", "ImageBatch", "VAEDecode", "StableCascade_StageB_Conditioning", "Unknown", "LunaDTPromptInjector", "",
]  # fmt: skip
INPUTS = [
    "model", "positive", "negative", "conditioning", "latent_image", "samples", "images", "image1", "image2", "text", "seed",
    "steps", "cfg", "denoise", "noise", "guider", "sampler", "sigmas", "string_a", "string_b", "delimiter", "value", "select",
    "input1", "lora_name", "lora_1", "strength_model", "ckpt_name", "conditioning_1", "conditioning_2", "add_noise",
    "start_at_step", "stage_c", "prompt_override", "sampler_name", "scheduler",
]  # fmt: skip
NAMES = st.sampled_from([str(i) for i in range(12)])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "lora", "on", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
LINKS = st.tuples(NAMES | st.integers(0, 11), st.integers(-1, 3)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(KINDS),
        "inputs": st.dictionaries(st.sampled_from(INPUTS), LINKS | ANYTHING, max_size=12),
    }
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, NODES | ANYTHING, max_size=12) | ANYTHING)
@pytest.mark.slow
def test_no_graph_raises_or_gives_what_cannot_be(graph: Any) -> None:
    for node in ("0", "1", None):
        made = read(graph, node)
        assert isinstance(made, Made)
        assert made.seed is None or 0 <= made.seed < 2**64
        assert made.steps is None or made.steps > 0
        parameters.write(made)


@pytest.mark.parametrize(
    "shape", ["pictures", "conditioning", "doubled", "model", "text", "samplers", "reroutes", "sigmas"]
)
@pytest.mark.slow
def test_a_very_large_graph_is_read_within_bounds(shape: str) -> None:
    many = 100_000
    links: dict[str, Callable[[int], dict[str, Any]]] = {
        "pictures": lambda i: n("ImageScale", image=(str(i + 1), 0)),
        "conditioning": lambda i: n("ConditioningSetMask", conditioning=(str(i + 1), 0)),
        "doubled": lambda i: n("ConditioningCombine", conditioning_1=(str(i + 1), 0), conditioning_2=(str(i + 1), 0)),
        "model": lambda i: lora(str(i + 1), "a", 1.0),
        "text": lambda i: n("StringConcatenate", string_a=(str(i + 1), 0), string_b=(str(i + 1), 0), delimiter=""),
        "samplers": lambda i: k(denoise=0.5, latent_image=(str(i + 1), 0)),
        "reroutes": lambda i: n("Reroute", x=(str(i + 1), 0)),
        "sigmas": lambda i: n("MultiplySigmas", sigmas=(str(i + 1), 0)),
    }
    graph = {**flux(), **{str(i): links[shape](i) for i in range(many)}, str(many): n("PrimitiveString", value="x")}
    graph |= {
        "pictures": {"out": n("SaveImage", images=("0", 0))}, "model": {"guider": n("BasicGuider", model=("0", 0))},
        "text": {"pos": text(("0", 0))}, "samplers": {"out": n("SaveImage", images=("0", 0))},
        "reroutes": {"noise": n("RandomNoise", noise_seed=("0", 0))},
        "sigmas": {"s": n("SamplerCustomAdvanced", sigmas=("0", 0), latent_image=("empty", 0))},
    }.get(shape, {"guided": n("FluxGuidance", guidance=3.5, conditioning=("0", 0))})  # fmt: skip
    began = time.perf_counter()
    made = read(graph, "out")
    assert time.perf_counter() - began < 5
    unknown = {"pictures": "seed", "conditioning": "prompt", "doubled": "prompt", "model": "model", "text": "prompt"}
    assert getattr(made, unknown.get(shape, "steps" if shape in ("sigmas", "samplers") else "seed")) is None


# -- AUTOMATIC1111's text -----------------------------------------------------------------------------

FULL = Made("a fox", "blurry", 7, 20, 6.5, None, "Euler a", "Karras", "dream", guidance=3.5, width=640, height=512)


def test_a_text_says_what_is_known_and_names_nothing_else() -> None:
    assert parameters.write(FULL) == (
        "a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 6.5, "
        "Distilled CFG Scale: 3.5, Seed: 7, Size: 640x512, Model: dream"
    )
    assert parameters.write(Made(prompt="a", seed=1, steps=3, cfg=1e-7)) == "a\nSteps: 3, CFG scale: 0.0000001, Seed: 1"
    assert parameters.write(Made(prompt="", seed=1, steps=3, denoise=1.0)) == "Steps: 3, Seed: 1"


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": None}, {"seed": None}, {"steps": None}, {"prompt": "a\nSteps: 3, Seed: 9"}, {"negative": "b\nsteps: 3"},
        {"prompt": "a\n Negative prompt: c"}, {"prompt": "parameters: a"}, {"negative": "x\nNEGATIVE PROMPT: y"},
        {"model": "a\0b"},
    ],
)  # fmt: skip
def test_what_would_be_read_otherwise_is_not_written(changes: dict[str, Any]) -> None:
    assert parameters.write(replace(FULL, **changes)) is None


@pytest.mark.parametrize(
    ("text", "told", "rest"),
    [
        ("", Made(prompt=""), {}),
        ("a photo: of, a fox", Made(prompt="a photo: of, a fox"), {}),
        ("a\n\nb \nNegative prompt: c\nd\nSteps: 5, Seed: 18446744073709551615, Model hash: abc",
         Made(prompt="a\n\nb", negative="c\nd", steps=5, seed=2**64 - 1), {"Model hash": "abc"}),
        ('x\r\nSteps: 5, Model: "a, b: \\"c\\"", Lora hashes: "l: 1, m: 2", Version: v1.10',
         Made(prompt="x", steps=5, model='a, b: "c"'), {"Lora hashes": "l: 1, m: 2", "Version": "v1.10"}),
        ("x\nSteps: many, CFG scale: 7.5, Seed: -1, Size: 0x", Made(prompt="x", cfg=7.5),
         {"Steps": "many", "Seed": "-1", "Size": "0x"}),
        ("x\rNegative prompt: y\rSteps: 5, Seed: 3", Made(prompt="x", negative="y", steps=5, seed=3), {}),
        ("x\nnegative Prompt: y\nsteps: 5, sampler: Euler, seed: 3", Made(prompt="x", negative="y", steps=5, sampler="Euler", seed=3), {}),
        ("x Negative prompt: y, z Steps: 5, Sampler: Euler, Seed: 3", Made(prompt="x", negative="y, z", steps=5, sampler="Euler", seed=3), {}),
        ("x\nNegative prompt: (y:1.2), size: 4, seed: 5, z:2", Made(prompt="x", negative="(y:1.2), size: 4, seed: 5, z:2"), {}),
        ("x\nSteps: 5, Sampler: , Model: , Seed: 3", Made(prompt="x", steps=5, seed=3), {"Sampler": "", "Model": ""}),
        ("a (fox:1.2) Steps: 5, Sampler: Euler, Seed: 3", Made(prompt="a (fox:1.2)", steps=5, sampler="Euler", seed=3), {}),
        ("a staircase of Steps: 5", Made(prompt="a staircase of Steps: 5"), {}),
        ("x\nSteps: 5, Sampler: None, Model: undefined, Seed: None", Made(prompt="x", steps=5),
         {"Sampler": "None", "Model": "undefined", "Seed": "None"}),
        ("x\nSteps: 5, Size: 1024x1024, Denoising strength: 0.7, First pass size: 512x640", Made(prompt="x", steps=5, width=512,
         height=640), {"Denoising strength": "0.7"}),
        ("x\nSteps: 5, Size: 1024x1024, First pass size: 0x0", Made(prompt="x", steps=5), {"Size": "1024x1024", "First pass size": "0x0"}),
        ("x\nSteps: 5, Denoising strength: 0.4", Made(prompt="x", steps=5, denoise=0.4), {}),
        ("x\nSteps: 5, Denoising strength: 0.4, Hires upscale: 2", Made(prompt="x", steps=5), {"Denoising strength": "0.4", "Hires upscale": "2"}),
        ("x\nSteps: 5, Denoising strength: 75", Made(prompt="x", steps=5), {"Denoising strength": "75"}),
        ("x\nSampler: Euler, Seed: 5, Size: 8x9", Made(prompt="x", sampler="Euler", seed=5, width=8, height=9), {}),
        ("a\n(red:1.2), fox:2, tall:1.3, seed: round", Made(prompt="a\n(red:1.2), fox:2, tall:1.3, seed: round"), {}),
        ("x\nSteps: 5, CFG Scale: 7, seed: 9, size: 8 x 9, model: m", Made(prompt="x", steps=5, cfg=7, seed=9, model="m",
         width=8, height=9), {}),
        ("x\nSampler: Euler, Seed: 5", Made(prompt="x\nSampler: Euler, Seed: 5"), {}),
        ('x\nSteps: 5, Model: "open, Seed: 3', Made(prompt="x", steps=5, model='"open', seed=3), {}),
        ("Negative prompt: y\nSteps: 5", Made(prompt="", negative="y", steps=5), {}),
        ("Steps: 1, Seed: 2\nis a title\nSteps: 5, Seed: 3", Made(prompt="Steps: 1, Seed: 2\nis a title", steps=5, seed=3), {}),
    ],
)  # fmt: skip
def test_a_text_is_read(text: str, told: Made, rest: dict[str, str]) -> None:
    assert parameters.read(text) == (told, rest)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    'ab ,:"\\\nSteps Negative prompt', max_size=40
)
FLOATS = st.none() | st.floats(0, 1e6, allow_nan=False)


@settings(max_examples=500, deadline=None)
@given(
    WORDS, WORDS, st.integers(0, 2**64 - 1), st.integers(1, 10_000), FLOATS, st.none() | st.floats(0, 1), st.none() | WORDS,
    st.none() | WORDS, FLOATS,
)  # fmt: skip
def test_what_is_written_is_read_back(
    prompt: str, negative: str, seed: int, steps: int, cfg: Any, denoise: Any, model: Any, sampler: Any, guidance: Any
) -> None:
    made = Made(prompt, negative, seed, steps, cfg, denoise, sampler, None, model, guidance=guidance, width=8, height=9)
    text = parameters.write(made)
    if text is None:
        words = (prompt + "\n" + negative).lower()
        assert (
            any(mark in words for mark in ("steps:", "negative prompt:", "parameters:", "\0"))
            or "\0" in f"{model}{sampler}"
        )
        return
    found, rest = parameters.read(text)
    assert rest == {}
    same = {**asdict(found), "prompt": None, "negative": None, "denoise": None}
    unnamed = {name: getattr(made, name) or None for name in ("model", "sampler")}
    assert same == {**asdict(made), "prompt": None, "negative": None, "denoise": None, **unnamed}
    assert (found.prompt or "").split() == prompt.split()
    assert (found.negative or "").split() == negative.split()
    assert (1.0 if found.denoise is None else found.denoise) == (1.0 if denoise is None else denoise)
    settings_line = dict(part.partition(":")[::2] for part in text.split("\n")[-1].replace(", ", ",").split(","))
    assert (settings_line["Seed"].strip(), settings_line["Steps"].strip()) == (str(seed), str(steps))  # as DT splits it


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text('Steps: 1,"\\\nNegative prompt:x', max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    made, rest = parameters.read(text)
    assert isinstance(made, Made)
    assert all(isinstance(value, str) for value in rest.values())


def test_a_long_line_is_read_at_once() -> None:
    began = time.perf_counter()
    for text in ("a" * 10**6, 'Steps: 1, x: "' * 10**5, "Steps: 1" + " " * 10**6, "Steps: 1, a:" + "[" * 10**6):
        parameters.read(text)
    assert time.perf_counter() - began < 5


def test_the_demos_pictures_say_what_automatic1111_would() -> None:
    scene = random_scene(random.Random(1), "cat")
    drawing = database.Drawing(scene, Path("x.png"), (256, 384), 2**31, 28, "DPM++ 2M", None)
    assert drawing.parameters == (
        f"{scene.caption}\nNegative prompt: blurry, low quality\nSteps: 28, Sampler: DPM++ 2M, CFG scale: 7, "
        f"Seed: {2**31}, Size: 256x384, Model: drawings_v1"
    )
