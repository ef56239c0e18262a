"""The inputs that several nodes have, as ComfyUI wants them described."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..luna_dt.records import LAYERS
from ..luna_dt.settings import DEFAULT_DT

Input: TypeAlias = tuple[str, dict[str, Any]]

CATEGORY = "Luna/Toolkit"
#: The largest whole number a web page keeps exactly; without it the front end stops ids at 2048.
MAX_ID = 2**53 - 1
MAX_SEED = 2**64 - 1

API_URL: Input = ("STRING", {"default": DEFAULT_DT, "tooltip": "The DT you configured, or one you allowed."})


def image_id(tooltip: str = "DT's id of the picture.") -> Input:
    return "INT", {"default": 0, "min": 0, "max": MAX_ID, "tooltip": tooltip}


def seed(tooltip: str) -> Input:
    # the page would draw another after each run: these seeds are not for sampling
    return "INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": False, "tooltip": tooltip}


def layer(tooltip: str) -> tuple[list[str], dict[str, Any]]:
    # the contract's order
    return sorted(LAYERS, key=lambda name: name == "negative"), {"default": "visual", "tooltip": tooltip}


def text(tooltip: str, multiline: bool = False) -> Input:
    return "STRING", {"default": "", "multiline": multiline, "tooltip": tooltip}
