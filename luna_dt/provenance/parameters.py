"""The text that AUTOMATIC1111 writes into a PNG as ``parameters``, which DT's scanner reads."""

from __future__ import annotations

from ..generation import Generation


def write(made: Generation) -> str:
    """That text for something that was made; its sampler and scheduler stand in ``extra_metadata``."""
    extra = made.extra_metadata
    parts = {
        "Steps": made.steps, "Sampler": extra.get("sampler"), "Schedule type": extra.get("scheduler"),
        "CFG scale": f"{made.cfg:g}", "Seed": made.seed, "Size": f"{made.width}x{made.height}",
        "Model": made.model or None, "Denoising strength": f"{made.denoise:g}" if made.denoise != 1 else None,
    }  # fmt: skip
    lines = [made.prompt, f"Negative prompt: {made.negative_prompt}" if made.negative_prompt else None]
    lines.append(", ".join(f"{name}: {value}" for name, value in parts.items() if value is not None))
    return "\n".join(line for line in lines if line is not None)
