"""The pack, loaded as ComfyUI loads it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


NAME = str(ROOT).replace(".", "_x_")


def load_pack() -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def pack_module(name: str) -> Any:
    """One of the modules of the pack that was loaded, whether or not anything has asked for it yet."""
    return importlib.import_module(f"{NAME}.{name}")


def as_in_comfyui(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Has ComfyUI's own modules there, with those values (``a__b`` is the module ``a.b``), and nothing more."""
    for name, values in {"comfy": {}, **modules}.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


class Interrupted(Exception):
    """What ComfyUI raises where its user has interrupted."""


class Interruption:
    """ComfyUI's flag: set by its user, and taken back by whoever raises for it."""

    def __init__(self) -> None:
        self.wanted = threading.Event()

    def heed(self) -> None:
        if self.wanted.is_set():
            self.wanted.clear()
            raise Interrupted

    def management(self) -> dict[str, Any]:
        """What is in ``comfy.model_management``."""
        return {
            "get_torch_device": lambda: "cpu",
            "unet_offload_device": lambda: "cpu",
            "load_models_gpu": lambda *_, **__: None,
            "processing_interrupted": self.wanted.is_set,
            "throw_exception_if_processing_interrupted": self.heed,
        }


def in_comfyui(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Interruption, list[tuple[int, int]]]:
    """Has a ComfyUI there whose folders are in ``folder``: its flag, and what its progress bar is told."""
    interruption, told = Interruption(), list[tuple[int, int]]()

    class Bar:
        def __init__(self, total: int) -> None:
            return

        def update(self, count: int) -> None:
            told.append((count, 0))

        def update_absolute(self, done: int, total: int) -> None:
            told.append((done, total))

    class Blocker:
        """ComfyUI's ExecutionBlocker."""

        def __init__(self, message: str | None) -> None:
            self.message = message

    def save_path(prefix: str, output: str, *_: int) -> tuple[str, str, int, str, str]:
        Path(output).mkdir(parents=True, exist_ok=True)
        return output, prefix, len(list(Path(output).iterdir())) + 1, "", prefix

    as_in_comfyui(
        monkeypatch,
        comfy__model_management=interruption.management(),
        comfy__model_patcher={"ModelPatcher": lambda *_, **__: object()},
        comfy__utils={"ProgressBar": Bar},
        comfy__cli_args={"args": SimpleNamespace(disable_metadata=False)},
        folder_paths={
            "get_folder_paths": lambda kind: [],
            "get_temp_directory": lambda: str(folder / "temp"),
            "get_output_directory": lambda: str(folder / "output"),
            "get_save_image_path": save_path,
        },
        comfy_execution={},
        comfy_execution__graph_utils={"ExecutionBlocker": Blocker},
    )
    return interruption, told
