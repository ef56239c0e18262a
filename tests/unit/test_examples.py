"""The scripts in ``examples/`` do what they say, on a library of drawn pictures."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from PIL import Image

from luna_dt import Library
from luna_dt.demo.database import draw_library

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.slow


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> int | str | None:
    """What a script ends with, 0 or None where all is well."""
    monkeypatch.setattr("sys.argv", [name, *map(str, words)])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawings, with a copy of the first beside them and those of cats in a folder of their own."""
    folder = tmp_path_factory.mktemp("drawn") / "Bilder Ünï"
    drawings = draw_library(folder, 36, seed=3)
    shutil.copy(drawings[0].path, folder / "copy.png")
    (folder / "cats").mkdir()
    for each in drawings:
        if each.scene.subject == "cat":
            shutil.move(each.path, folder / "cats")
    return folder


@pytest.fixture(scope="module")
def home(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    with Library(folder, dt=str(pictures)) as library:
        library.sync()
        library.embed("visual", model="luna-tiny:drawings", devices=["cpu"])
    return folder


def settled(home: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOME": home, "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"LUNA_DT_{name}", str(value))
    monkeypatch.setenv("DT_API_URL", str(pictures))


@pytest.mark.parametrize("name", sorted(each.stem for each in EXAMPLES.glob("*.py")))
def test_an_example_tells_how_it_is_used_and_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, monkeypatch, "--help") == 0
    assert f"examples/{name}.py" in capsys.readouterr().out
    assert f"examples/{name}.py" in (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")


def test_dedupe_lists_all_of_a_group_but_the_one_to_keep(
    home: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(home, pictures, monkeypatch)
    assert run("dedupe", monkeypatch, "--similarity", 1, "--list", tmp_path / "spare.txt") == 0
    spare = (tmp_path / "spare.txt").read_text(encoding="utf-8").splitlines()
    first = next(pictures.glob("00001-*.png"))
    assert len({str(first), str(pictures / "copy.png")} & set(spare)) == 1
    assert all(Path(each).is_file() for each in spare)


def test_curate_copies_a_cluster_with_captions(
    home: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(home, pictures, monkeypatch)
    assert run("curate_lora", monkeypatch, "cats", "--count", 2, "--trigger", "zorro", "--out", tmp_path) == 0
    captions = [each.read_text(encoding="utf-8") for each in tmp_path.glob("*.txt")]
    assert len(captions) == len(list(tmp_path.glob("*.png"))) == min(2, len(list((pictures / "cats").iterdir())))
    assert all(each.startswith("zorro, ") and "cat" in each for each in captions)
    assert "cats" in str(run("curate_lora", monkeypatch, "dogs", "--out", tmp_path))


def test_map_folder_makes_a_map_of_each_picture_and_tells_of_what_is_none(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few, out, home = tmp_path / "few", tmp_path / "maps", tmp_path / "home"
    shutil.copytree(pictures / "cats", few / "cats")
    assert run("map_folder", monkeypatch, few, out, "--home", home) == 0
    for each in (few / "cats").iterdir():
        with Image.open(each) as picture, Image.open(out / "cats" / f"{each.stem}.canny.png") as made:
            assert made.size == picture.size
    (few / "none.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert run("map_folder", monkeypatch, few, out, "--home", home) == 1
    told = capsys.readouterr().out
    assert "none.png: " in told
    assert "was kept" in told
    assert "is made" not in told


def test_search_finds_by_text_among_what_fits(
    home: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settled(home, pictures, monkeypatch)
    assert run("search_text", monkeypatch, "a cat", "--where", "steps: 20-28", "--count", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    with Library(home) as library:
        fitting = {each.path for each in library.images("steps: 20-28", limit=1000)}
    assert all(line.split("  ")[1] in fitting for line in lines)
    assert "BadQuery" not in str(run("search_text", monkeypatch, "a cat", "--where", "rating: x"))
