"""The first hour of a library without vectors: sync, embed, search, from a shell, over stock DT and over a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from luna_dt.demo.database import TINY_JOINT, Drawing, draw_library
from tests import stock
from tests.e2e.test_cli import answer, luna_dt

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[Drawing]:
    return draw_library(tmp_path_factory.mktemp("drawn") / "Bilder 猫", 24, seed=5)


@pytest.fixture
def database(drawings: list[Drawing], tmp_path: Path) -> Path:
    """A stock DT's, of those drawings, the first of which is the newest."""
    file = tmp_path / "DT's" / "diffusion-toolkit.db"
    stock.create(file, "1.10")
    rows = [
        {"Id": i, "Path": str(d.path), "Prompt": d.scene.caption, "CreatedDate": stock.ticks(f"2026-01-{29 - i:02}")}
        for i, d in enumerate(drawings, 1)
    ]
    stock.insert(file, "Image", *rows)
    return file


@pytest.mark.parametrize("way", ["stock", "folder"])
def test_a_library_without_vectors_is_synced_embedded_and_searched(
    way: str, drawings: list[Drawing], database: Path, tmp_path: Path
) -> None:
    home, dt = tmp_path / "home", database if way == "stock" else drawings[0].path.parent
    before = database.read_bytes()
    changes = {change["kind"]: change["added"] for change in answer("sync", "--dt", dt, home=home)}
    assert changes["images"] == len(drawings)
    told = luna_dt("search", "--image", drawings[3].path, home=home).stderr
    assert "if DT has none: luna-dt embed --layer visual" in told
    made = luna_dt("embed", "--layer", "visual", "--model", TINY_JOINT.model, home=home)
    assert made.returncode == 0, made.stderr
    assert "visual: 24 made" in made.stdout
    (home / "settings.toml").write_text("dt = 'http://127.0.0.1:9'\n")  # with DT closed
    for drawing in (drawings[3], drawings[20]):
        hits = answer("search", "--image", drawing.path, "-k", 3, home=home)
        assert Path(hits[0]["path"]) == drawing.path
        assert hits[0]["similarity"] == pytest.approx(1, abs=1e-4)
        assert hits[0]["prompt"] == drawing.scene.caption
    found = answer("search", "--text", drawings[3].scene.caption, "-k", 5, home=home)
    assert drawings[3].scene.subject in found[0]["prompt"]
    assert database.read_bytes() == before  # never written
    again = answer("embed", "--layer", "visual", home=home)
    assert (again["encoded"], again["read"], again["unchanged"]) == (0, 0, len(drawings))
