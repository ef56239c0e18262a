"""What a picture says of its own making: AUTOMATIC1111's text, ComfyUI's graph, others' JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Lora: TypeAlias = tuple[str, float | None]


@dataclass(frozen=True, slots=True)
class Made:
    """How a picture was made, as far as that is told; None is unknown, and is never a guess.

    ``negative`` "" and ``loras`` () are known to be none.  ``seed``: 0 to 2^64-1; ``steps``: 1 or more; ``cfg``,
    ``guidance``: 0 or more; ``denoise``: 0 to 1, 1 for a picture made of noise alone.  ``sampler`` and ``scheduler``
    are in the words of whoever wrote them.  ``loras``: name and strength (None: unknown), in the order in which they
    were applied.  ``width`` and ``height``: pixels that the first sampler was given, before any upscaling.
    """

    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    denoise: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    model: str | None = None
    loras: tuple[Lora, ...] | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
