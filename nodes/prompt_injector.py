"""Luna DT Prompt Injector."""

from __future__ import annotations

from typing import Any

from . import inputs, shared


class LunaDTPromptInjector:
    """A picture's prompt and settings, to make another like it."""

    TITLE = "Luna DT Prompt Injector"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Reuses the prompt and settings of a picture in DiffusionToolkit; what you override wins."
    RETURN_TYPES = ("STRING", "STRING", "INT", "INT", "FLOAT", "INT", "STRING", "STRING")
    RETURN_NAMES = ("prompt", "negative", "width", "height", "cfg", "steps", "sampler", "model")
    OUTPUT_TOOLTIPS = (
        "Its prompt, or your override.",
        "Its negative prompt, or your override.",
        "Its width in pixels.",
        "Its height in pixels.",
        "Its CFG scale.",
        "Its number of steps.",
        "Its sampler, as DT writes it.",
        "Its model, as DT writes it.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_id": inputs.image_id(),
            },
            "optional": {
                "prompt_override": inputs.text("Used instead of the picture's prompt.", multiline=True),
                "negative_override": inputs.text("Used instead of the picture's negative prompt.", multiline=True),
            },
        }

    @classmethod
    def IS_CHANGED(cls, image_id: int | None = None, **_: Any) -> str:  # noqa: N802
        return shared.fingerprint(shared.library(), image_id)

    def run(self, image_id: int, prompt_override: str = "", negative_override: str = "") -> tuple[Any, ...]:
        r = shared.library().image(shared.needed_id(image_id))
        prompt = prompt_override if prompt_override.strip() else r.prompt
        negative = negative_override if negative_override.strip() else r.negative_prompt
        return prompt, negative, r.width, r.height, r.cfg, r.steps, r.sampler, r.model
