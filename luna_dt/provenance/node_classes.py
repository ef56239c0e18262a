"""ComfyUI's node classes, as far as their inputs' names do not say what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable

# -- words and numbers -------------------------------------------------------------------------------

#: Whose first output is the value of that input.
VALUES = {
    "PrimitiveNode": "value", "PrimitiveString": "value", "PrimitiveStringMultiline": "value", "PrimitiveInt": "value",
    "PrimitiveFloat": "value", "PrimitiveBoolean": "value", "INTConstant": "value", "FloatConstant": "value",
    "StringConstant": "string", "String Literal": "string", "Int Literal": "int", "Float Literal": "float",
    "ImpactInt": "value", "ImpactFloat": "value", "easy int": "value", "easy float": "value", "easy string": "value",
    "easy seed": "seed", "easy positive": "positive", "easy negative": "negative", "Seed (rgthree)": "seed",
    "CR Seed": "seed", "CR Text": "text", "CR Prompt Text": "prompt", "JWInteger": "value", "JWFloat": "value",
    "JWString": "text", "JWStringMultiline": "text", "ttN text": "text", "ttN seed": "seed", "ttN int": "int",
    "ttN float": "float", "ShowText|pysssss": "text", "easy showAnything": "anything", "PreviewAny": "source",
    "Display Any (rgthree)": "source", "StringConstantMultiline": "string", "Text Multiline": "text", "Text String": "text",
    "ImpactWildcardProcessor": "populated_text",
}  # fmt: skip
#: The same of other outputs.
VALUES_AT = {
    ("LunaDTPromptInjector", 0): "prompt_override", ("LunaDTPromptInjector", 1): "negative_override",
    ("ImpactWildcardEncode", 3): "populated_text",
}  # fmt: skip
#: Ours, whose text is DT's own where nothing overrides it; the graph does not know that.
OVERRIDING = {"LunaDTPromptInjector"}
MOST_REPLACED = 100_000  # characters
#: What a text holds that is replaced, or left out, when the node runs.
FILLED_IN = {
    "Text Multiline": re.compile(r"\[|^\s*#", re.MULTILINE), "Text String": re.compile(r"\["),
    "easy fullLoader": re.compile(r"<lora:|\{|__"),
}  # fmt: skip


def is_filled_in(kind: str, text: object) -> bool:
    """Whether a text of a node is another when it runs."""
    return kind in FILLED_IN and isinstance(text, str) and FILLED_IN[kind].search(text) is not None


def _joined(*texts: str) -> str:
    return "".join(texts)


def _appended(text_a: str, text_b: str, text_c: str, action: str, tidy_tags: str) -> str | None:
    tidy = tidy_tags == "yes"
    if action != "append":
        return None
    text = (", " if tidy else "").join(filter(None, [text_a, text_b, text_c]))
    return re.sub(",{2,}", ",", re.sub(r"\s{2,}", " ", text).replace(" ,", ",")).strip() if tidy else text


def _concatenated(a: str, b: str, c: str, d: str, delimiter: str, clean: str) -> str:
    texts = [text.strip() if clean == "true" else text for text in (a, b, c, d)]
    return ("\n" if delimiter == "\\n" else delimiter).join(filter(None, texts))


def _replaced(text: str, find: str, replace: str) -> str | None:
    return text.replace(find, replace) if text.count(find) * len(replace) < MOST_REPLACED else None


def _trimmed(text: str, mode: str) -> str:
    return text.lstrip() if mode == "Left" else text.rstrip() if mode == "Right" else text.strip()


#: Texts that are made of others: by which inputs, in which order, and how; one that is not there is empty.
FORMED: dict[str, tuple[tuple[str, ...], Callable[..., str | None]]] = {
    "StringConcatenate": (("string_a", "delimiter", "string_b"), _joined),
    "CR Text Concatenate": (("text1", "separator", "text2"), _joined),
    "JoinStrings": (("string1", "delimiter", "string2"), _joined),
    "easy promptConcat": (("prompt1", "separator", "prompt2"), _joined),
    "JWStringConcat": (("a", "b"), _joined),
    "ConcatStringSingle": (("string_a", "string_b"), _joined),
    "Text Concatenate": (("text_a", "text_b", "text_c", "text_d", "delimiter", "clean_whitespace"), _concatenated),
    "StringFunction|pysssss": (("text_a", "text_b", "text_c", "action", "tidy_tags"), _appended),
    "StringReplace": (("string", "find", "replace"), _replaced),
    "StringTrim": (("string", "mode"), _trimmed),
}

# -- what is only passed on --------------------------------------------------------------------------

#: The input that chooses, and how the one is named that it chooses.
SWITCHES = {
    "ComfySwitchNode": ("switch", "on_{}"), "LazySwitchKJ": ("switch", "on_{}"), "easy ifElse": ("boolean", "on_{}"),
    "ImpactSwitch": ("select", "input{}"), "CR Text Input Switch": ("Input", "text{}"),
    "CR Conditioning Input Switch": ("Input", "conditioning{}"), "CR Image Input Switch": ("Input", "image{}"),
    "CR Latent Input Switch": ("Input", "latent{}"), "CR Model Input Switch": ("Input", "model{}"),
    "easy textSwitch": ("input", "text{}"), "easy anythingIndexSwitch": ("index", "value{}"),
    "easy textIndexSwitch": ("index", "text{}"), "easy imageIndexSwitch": ("index", "image{}"),
    "easy conditioningIndexSwitch": ("index", "cond{}"),
    **dict.fromkeys((f"Switch {kind} [Crystools]" for kind in ("any", "conditioning", "image", "latent", "string")),
                    ("boolean", "on_{}")),
}  # fmt: skip
#: rgthree's bundles: an output passes on the input of its place, else the same part of the bundle before.
BUNDLES = {"Context (rgthree)", "Context Big (rgthree)"}
BUNDLE = (
    "base_ctx", "model", "clip", "vae", "positive", "negative", "latent", "images", "seed", "steps", "step_refiner", "cfg",
    "ckpt_name", "sampler", "scheduler", "clip_width", "clip_height", "text_pos_g", "text_pos_l", "text_neg_g", "text_neg_l",
    "mask", "control_net",
)  # fmt: skip
#: Of what is linked the first is passed on.
BUNDLE_SWITCHES = {"Context Switch (rgthree)", "Context Switch Big (rgthree)"}
FIRSTS = {"Any Switch (rgthree)"} | BUNDLE_SWITCHES

# -- conditioning ------------------------------------------------------------------------------------

#: Encoders and their texts.
TEXTS = {
    "CLIPTextEncode": ("text",), "CLIPTextEncodeSDXL": ("text_g", "text_l"), "CLIPTextEncodeSDXLRefiner": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl"), "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl"),
    "CLIPTextEncodeHunyuanDiT": ("bert", "mt5xl"), "CLIPTextEncodePixArtAlpha": ("text",),
    "CLIPTextEncodeLumina2": ("user_prompt",), "CLIPTextEncodeHiDream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "CLIPTextEncodeKandinsky5": ("clip_l", "qwen25_7b"), "TextEncodeHunyuanVideo_ImageToVideo": ("prompt",),
    "TextEncodeQwenImageEdit": ("prompt",), "TextEncodeQwenImageEditPlus": ("prompt",),
    "TextEncodeZImageOmni": ("prompt",), "ImpactWildcardEncode": ("populated_text",),
    "Prompt (LoraManager)": ("trigger_words", "text"), "BNK_CLIPTextEncodeAdvanced": ("text",), "smZ CLIPTextEncode": ("text",),
}  # fmt: skip
#: Loaders that encode, too: their texts by output.
TEXTS_AT = {
    ("Efficient Loader", 1): "positive", ("Efficient Loader", 2): "negative",
    ("easy fullLoader", 4): "positive", ("easy fullLoader", 5): "negative",
}  # fmt: skip
#: What is left after them is nothing that a text had said.
ZEROED = {"ConditioningZeroOut"}
#: Which inputs each output is made of; one that is not named here is made of the last.
CONDITIONING: dict[str, tuple[tuple[str, ...], ...]] = {
    "ConditioningCombine": (("conditioning_1", "conditioning_2"),),
    "ConditioningConcat": (("conditioning_to", "conditioning_from"),),
    "ConditioningSetDefaultCombine": (("cond", "cond_DEFAULT"),),
    "ConditioningSetProperties": (("cond_NEW",),),
    "ConditioningSetPropertiesAndCombine": (("cond", "cond_NEW"),),
    "PairConditioningSetProperties": (("positive_NEW",), ("negative_NEW",)),
    "PairConditioningSetPropertiesAndCombine": (("positive", "positive_NEW"), ("negative", "negative_NEW")),
    "PairConditioningSetDefaultAndCombine": (("positive", "positive_DEFAULT"), ("negative", "negative_DEFAULT")),
    "PairConditioningCombine": (("positive_A", "positive_B"), ("negative_A", "negative_B")),
    "GLIGENTextBoxApply": (("conditioning_to",),),
    "CLIPTextEncodeControlnet": (("conditioning",),),
    "CR Apply Multi-ControlNet": (("base_positive",), ("base_negative",)),
    **dict.fromkeys(
        (
            "ControlNetApplyAdvanced", "ControlNetApplySD3", "ControlNetInpaintingAliMamaApply",
            "InpaintModelConditioning", "InstructPixToPixConditioning", "SD_4XUpscale_Conditioning",
            "ACN_AdvancedControlNetApply", "ACN_AdvancedControlNetApply_v2",
        ),
        (("positive",), ("negative",)),
    ),
}  # fmt: skip
#: Conditioning that carries a picture of an earlier sampler, which this one only works out.
STAGES = {"StableCascade_StageB_Conditioning": "stage_c", "SD_4XUpscale_Conditioning": "images"}

# -- samplers ----------------------------------------------------------------------------------------

SAMPLERS = {"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"}
#: Nodes that are a sampler's name.
NAMED_SAMPLERS = {
    "SamplerEulerAncestral": "euler_ancestral", "SamplerEulerAncestralCFGPP": "euler_ancestral_cfg_pp",
    "SamplerEulerCFGpp": "euler_cfg_pp", "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde", "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
    "SamplerDPMPP_SDE": "dpmpp_sde", "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral", "SamplerLMS": "lms",
    "SamplerDPMAdaptative": "dpm_adaptive", "SamplerER_SDE": "er_sde", "SamplerSASolver": "sa_solver",
}  # fmt: skip
#: Nodes that are a schedule's name.
NAMED_SCHEDULERS = {
    "KarrasScheduler": "karras", "ExponentialScheduler": "exponential", "PolyexponentialScheduler": "polyexponential",
    "LaplaceScheduler": "laplace", "BetaSamplingScheduler": "beta",
}  # fmt: skip
#: Schedules in two parts: the second goes on where the first ended.
SPLITS = {"SplitSigmas", "SplitSigmasDenoise"}
#: After these a schedule is no longer one that makes a picture of noise, or of so many steps.
BENT = {"FlipSigmas", "ExtendIntermediateSigmas"}

# -- models ------------------------------------------------------------------------------------------

#: The inputs that name a model's file; and a LoRA's strength.
MODEL_NAMES = ("ckpt_name", "unet_name", "gguf_name", "model_path", "model_name")
LORA_STRENGTHS = ("strength_model", "lora_strength", "strength", "lora_model_strength")
CLIP_STRENGTHS = ("strength_clip", "lora_clip_strength")
#: Texts whose ``<lora:NAME:STRENGTH>`` are applied.
LORA_TEXTS = {"LoraTagLoader": "text", "ImpactWildcardEncode": "populated_text", "PCLazyLoraLoader": "text"}
#: Nodes that apply LoRAs, by whatever name: LyCORIS has several kinds.
LORAS_OF_A_KIND = re.compile("lora|lycoris|locon|loha|lokr", re.IGNORECASE)
#: LoRAs that come with the conditioning.
HOOKED_LORAS = re.compile("CreateHook.*Lora.*")

# -- pictures ----------------------------------------------------------------------------------------

#: The inputs that are the picture itself, where their names do not say so.
PICTURES = {
    "ImageCompositeMasked": ("destination", "source"),
    "LatentComposite": ("samples_to", "samples_from"),
    "LatentCompositeMasked": ("destination", "source"),
    "ReActorFaceSwap": ("input_image",),
    "ColorMatch": ("image_target",),
    "InpaintStitch": ("inpainted_image",),
    "InpaintStitchImproved": ("inpainted_image",),
}
#: How the inputs are named that are no picture.
NO_PICTURE = (
    "model", "clip", "vae", "positive", "negative", "cond", "control", "mask", "width", "height", "batch", "seed",
    "noise", "steps", "cfg", "text", "prompt", "string", "style", "upscale_model", "lora", "sigmas", "sampler", "guider",
    "audio", "scale", "value", "length", "denoise", "base", "metadata", "source_image_id", "filename",
)  # fmt: skip
