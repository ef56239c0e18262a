"""Luna DT Caption Fetcher."""

from __future__ import annotations

from typing import Any

from . import inputs, shared


class LunaDTCaptionFetcher:
    """A picture's tags and captions as text."""

    TITLE = "Luna DT Caption Fetcher"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Fetches the tags and captions that DiffusionToolkit has for a picture; empty where it has none."
    RETURN_TYPES = ("STRING", "STRING", "STRING", "STRING")
    RETURN_NAMES = ("wd14_tags", "joytag_tags", "joycaption", "combined")
    OUTPUT_TOOLTIPS = (
        "Tags by the WD tagger, most certain first.",
        "Tags by JoyTag, most certain first.",
        "The latest caption by JoyCaption.",
        "Every tag once, then the best caption.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "image_id": inputs.image_id(),
            },
            "optional": {
                "prepend_trigger": inputs.text("A trigger word, put in front of every text that is not empty."),
            },
        }

    @classmethod
    def IS_CHANGED(cls, image_id: int | None = None, **_: Any) -> str:  # noqa: N802
        return shared.fingerprint(shared.library(), image_id)

    def run(self, image_id: int, prepend_trigger: str = "") -> tuple[str, ...]:
        c = shared.library().captions(shared.needed_id(image_id))
        trigger = prepend_trigger.strip().rstrip(",")
        texts = (c.wd14_tags, c.joytag_tags, c.joycaption, c.combined)
        return tuple(f"{trigger}, {text}" if trigger and text else text for text in texts)
