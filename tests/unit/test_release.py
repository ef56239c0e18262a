"""What is released: one version number everywhere, and a wheel that holds what it should and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from luna_dt.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing that was built before gets in, nor anything into the tree."""
    copy, to = tmp_path_factory.mktemp("tree") / "luna_dt", tmp_path_factory.mktemp("dist")
    for folder in ("luna_dt", "nodes", "tests", "bench", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "__init__.py", "install.py"):
        shutil.copy(ROOT / file, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(to),
        str(copy),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = to.iterdir()
    return built


def test_the_changelog_begins_with_this_version() -> None:
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[0] == __version__


@pytest.mark.processes
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    assert wheel.name == f"luna_dt-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
        opened.extractall(tmp_path)
    assert {name.partition("/")[0] for name in held} == {"luna_dt", f"luna_dt-{__version__}.dist-info"}
    ours = {str(path.relative_to(ROOT)).replace(os.sep, "/") for path in (ROOT / "luna_dt").rglob("*.*")}
    assert {name for name in ours if name.endswith((".py", ".typed", ".sql", ".mjs", ".css", ".html"))} <= held
    assert {name for name in ours if name.startswith("luna_dt/models/tiny/")} <= held
    assert {"luna_dt/py.typed", "luna_dt/demo/fork.sql", "luna_dt/models/tiny/open_clip_model.safetensors"} <= held
    told = subprocess.check_output(
        [sys.executable, "-c", "import luna_dt; print(luna_dt.version.__version__, luna_dt.__file__)"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
    )  # fmt: skip
    assert told.split() == [__version__, str(tmp_path / "luna_dt" / "__init__.py")]
