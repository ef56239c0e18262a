"""What ComfyUI-Manager runs after requirements.txt: what ControlNet maps are made with.

    python install.py

torch, numpy and OpenCV stay what they are.  controlnet_aux asks for opencv-python-headless, which would be
written over an opencv-python that is there, so it is installed without what it asks for, and OpenCV only where
there is none.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

KEPT = ("torch", "torchvision", "torchaudio", "numpy", "pillow", "transformers")
NEEDED = (
    "einops",
    "huggingface_hub",
    "importlib_metadata",
    "matplotlib",
    "scikit-image",
    "scipy",
    "timm",
    "transformers",
)


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments], check=True)


def kept() -> list[str]:
    """What is installed of that which must not change, as pip's constraints."""
    found = []
    for name in KEPT:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept()), encoding="utf-8")
        needed = list(NEEDED)
        if importlib.util.find_spec("cv2") is None:
            needed.append("opencv-python-headless")
        pip("--constraint", str(constraints), *needed)
    if importlib.util.find_spec("controlnet_aux") is None:
        pip("--no-deps", "controlnet_aux>=0.0.10")
    print("ControlNet maps can be made; their weights are fetched when first needed")


if __name__ == "__main__":
    main()
