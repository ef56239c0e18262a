"""Looking from the shell: ``luna-dt images`` and ``export`` over a stock DT's database with real pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from luna_dt.cli import main
from tests import stock


def luna_dt(*arguments: object, home: Path) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *map(str, arguments)])


def answer(*arguments: object, home: Path, status: int = 0) -> Any:
    done = luna_dt(*arguments, "--json", home=home)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four pictures, two of which have the same name, and one the stem of another."""
    found = []
    for name, colour in (
        ("a/fox.png", "red"),
        ("b/Fox.PNG", "blue"),
        ("b/fox.jpg", "green"),
        ("a/Größe 猫.png", "white"),
    ):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 48), colour).save(path)
        found.append(path)
    return found


@pytest.fixture
def home(tmp_path: Path, pictures: list[Path]) -> Path:
    """A home whose DT is a stock database: five images, the last of which has no file."""
    file = tmp_path / "dt" / "diffusion-toolkit.db"
    stock.create(file, "1.10")
    paths = [*map(str, pictures), str(tmp_path / "gone.png")]
    rows = [
        {"Id": i, "Path": path, "Prompt": f"a fox,\nnumber {i}", "Width": 32, "Height": 48, "Seed": i}
        for i, path in enumerate(paths, 1)
    ]
    stock.insert(file, "Image", *rows)
    stock.insert(file, "Tag", {"Id": 1, "Name": "animal"}, {"Id": 2, "Name": "red fur"})
    stock.insert(file, "ImageTag", {"ImageId": 1, "TagId": 1}, {"ImageId": 1, "TagId": 2}, {"ImageId": 2, "TagId": 1})
    made = tmp_path / "home"
    made.mkdir()
    (made / "settings.toml").write_text(f"dt = '{file}'\n", encoding="utf-8")
    return made


@pytest.mark.parametrize("synced", [False, True])
def test_images_are_listed_by_pages(home: Path, synced: bool) -> None:
    if synced:
        answer("sync", home=home)
    assert [each["id"] for each in answer("images", "fox", home=home)] == [1, 2, 3, 4, 5]
    assert [each["id"] for each in answer("images", "number 3 seed: 3", home=home)] == [3]
    assert answer("images", "--ids", "--limit", 2, home=home) == [1, 2]
    told = luna_dt("images", "fox", "--ids", "--limit", 2, "--after", 1, home=home)
    assert told.stdout == "2\n3\n"
    assert "--after 3" in told.stderr
    assert "--after" not in luna_dt("images", "--ids", "--limit", 0, home=home).stderr
    table = luna_dt("images", "number 4", home=home).stdout
    assert table.split()[:3] == ["id", "path", "prompt"]
    assert "a fox, number 4" in table
    assert luna_dt("images", "nothing of the kind", home=home).stdout == "no image fits\n"
    wrong = luna_dt("images", "size: none", "--json", home=home)
    assert wrong.exit_code == 1
    assert json.loads(wrong.stdout)["error"]["code"] == "bad_query"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_export_makes_a_training_set_and_goes_on(home: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    told = answer("export", "fox", "-o", folder, "--captions", "tags", "--trigger", "zorro", home=home, status=1)
    assert (told["exported"], told["present"]) == (4, 0)
    assert [each["id"] for each in told["failed"]] == [5]
    assert "gone.png" in told["failed"][0]["reason"]
    made = files(folder)
    names = ["fox.png", "Fox-2.png", "fox-3.jpg", "Größe 猫.png"]
    assert sorted(made) == sorted([*names, *(Path(name).with_suffix(".txt").name for name in names)])
    assert [made[name] for name in names] == [path.read_bytes() for path in pictures]
    assert made["fox.txt"] == b"zorro, animal, red fur"
    assert made["fox-3.txt"] == b"zorro"
    for gone in ("Fox-2.png", "fox-3.txt"):  # as if it had been stopped
        (folder / gone).unlink()
    (folder / ".luna-dt.part").write_bytes(b"half of")
    again = answer("export", "fox", "-o", folder, "--captions", "tags", "--trigger", "zorro", home=home, status=1)
    assert (again["exported"], again["present"]) == (1, 3)
    assert files(folder) == made


def test_export_overwrites_nothing(home: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    mine = {"fox.webp": b"mine", "Fox-2.txt": b"my words", "FOX-3.png": b"mine, too"}
    for name, content in mine.items():
        (folder / name).write_bytes(content)
    told = answer("export", "number 1 | number 2", "-o", folder, "--captions", "prompt", home=home)
    assert told["exported"] == 0
    told = answer("export", "seed: 1-3", "-o", folder, "--captions", "prompt", home=home)
    assert told["exported"] == 3
    made = files(folder)
    assert {name: made[name] for name in mine} == mine
    assert made.keys() - mine.keys() == {
        "fox-1.png", "fox-1.txt", "Fox-2-2.png", "Fox-2-2.txt", "fox-3-2.jpg", "fox-3-2.txt"
    }  # fmt: skip
    assert made["fox-1.txt"] == b"a fox, number 1"
    (folder / "fox-1.txt").write_text("by hand")
    kept = luna_dt("export", "seed: 1", "-o", folder, "--captions", "prompt", home=home)
    assert kept.exit_code == 1
    assert "fox-1.txt" in kept.stdout
    assert (folder / "fox-1.txt").read_text() == "by hand"


def test_export_of_links_and_of_what_is_no_picture(home: Path, pictures: list[Path], tmp_path: Path) -> None:
    pictures[1].write_bytes(pictures[1].read_bytes()[:45])
    pictures[2].write_bytes(b"no picture at all")
    folder = tmp_path / "new" / "set"
    told = answer("export", "", "-o", folder, "--link", "--captions", "none", home=home, status=1)
    assert [each["id"] for each in told["failed"]] == [2, 3, 5]
    assert {path.name: path.resolve() for path in folder.iterdir()} == {
        "fox.png": pictures[0], "Größe 猫.png": pictures[3]
    }  # fmt: skip
    assert answer("export", "seed: 1", "-o", folder, "--link", "--captions", "none", home=home)["present"] == 1
    assert luna_dt("export", "", "-o", folder, "--captions", "none", "--trigger", "x", home=home).exit_code == 2
    wrong = luna_dt("export", "", "-o", pictures[0], home=home)
    assert wrong.exit_code == 1
    assert "cannot be written" in wrong.stderr
    assert pictures[0].is_file()


@pytest.mark.parametrize(
    "path", ["D:\\x\\CON.png", "/x/a:b?.png", "/x/" + "猫" * 80 + ".png", "/x/.hidden.png", "D:\\x\\trailing. .png"]
)
def test_names_are_such_as_every_system_takes(path: str, home: Path, pictures: list[Path], tmp_path: Path) -> None:
    stock.run(tmp_path / "dt" / "diffusion-toolkit.db", f"UPDATE Image SET Path = '{path}' WHERE Id = 1")
    local = tmp_path / "mapped"
    target = local.joinpath(*path.replace("\\", "/").split("/")[2:])
    local.mkdir()
    target.write_bytes(pictures[0].read_bytes())
    with (home / "settings.toml").open("a", encoding="utf-8") as settings:
        settings.write(f"[path_map]\n'{'D:/x' if path.startswith('D') else '/x'}' = '{local}'\n")
    folder = tmp_path / "set"
    assert answer("export", "seed: 1", "-o", folder, home=home)["exported"] == 1
    for name in files(folder):
        assert len(name.encode()) < 200
        assert not set(name) & set('<>:"/\\|?*')
        assert Path(name).stem.lower() != "con"
        assert Path(name).stem.strip(" .") == Path(name).stem
