"""ComfyUI's node classes, as far as their inputs' names do not say what they mean."""

from __future__ import annotations

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
    "ttN float": "float", "ShowText|pysssss": "text",
}  # fmt: skip
#: Texts that are put together: the parts, and what stands between them.
JOINED = {
    "StringConcatenate": (("string_a", "string_b"), "delimiter"),
    "CR Text Concatenate": (("text1", "text2"), "separator"),
    "JWStringConcat": (("a", "b"), ""),
    "ConcatStringSingle": (("string_a", "string_b"), ""),
}
#: Ours: an output is a text that overrides DT's, which the graph does not know.
OVERRIDES = {("LunaDTPromptInjector", 0): "prompt_override", ("LunaDTPromptInjector", 1): "negative_override"}
#: The input that chooses, and how the one is named that it chooses.
SWITCHES = {
    "ComfySwitchNode": ("switch", "on_{}"),
    "ImpactSwitch": ("select", "input{}"),
}

# -- conditioning ------------------------------------------------------------------------------------

#: Encoders and their texts.
TEXTS = {
    "CLIPTextEncode": ("text",), "CLIPTextEncodeSDXL": ("text_g", "text_l"), "CLIPTextEncodeSDXLRefiner": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl"), "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl"),
    "CLIPTextEncodeHunyuanDiT": ("bert", "mt5xl"), "CLIPTextEncodePixArtAlpha": ("text",),
    "CLIPTextEncodeLumina2": ("user_prompt",), "CLIPTextEncodeHiDream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "CLIPTextEncodeKandinsky5": ("clip_l", "qwen25_7b"), "TextEncodeHunyuanVideo_ImageToVideo": ("prompt",),
    "TextEncodeQwenImageEdit": ("prompt",), "TextEncodeQwenImageEditPlus": ("prompt",),
    "TextEncodeZImageOmni": ("prompt",), "BNK_CLIPTextEncodeAdvanced": ("text",), "smZ CLIPTextEncode": ("text",),
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
LORA_STRENGTHS = ("strength_model", "lora_strength", "strength")

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
#: After these a sampler makes a part of the picture only.
MASKED = {"SetLatentNoiseMask", "VAEEncodeForInpaint", "InpaintModelConditioning"}
#: How the inputs are named that are no picture.
NO_PICTURE = (
    "model", "clip", "vae", "positive", "negative", "cond", "control", "mask", "width", "height", "batch", "seed",
    "noise", "steps", "cfg", "text", "prompt", "string", "style", "upscale_model", "lora", "sigmas", "sampler", "guider",
    "audio", "scale", "value", "length", "denoise", "base", "metadata", "source_image_id", "filename",
)  # fmt: skip
