"""Looking from the shell: ``luna-dt images`` and ``export`` over a stock DT's database with real pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from luna_dt import Library
from luna_dt.cli import main
from luna_dt.errors import BadInput, BadQuery
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
    wrong = luna_dt("images", "猫 fox,  rating: many seed: 3", home=home)
    shown, caret = wrong.stderr.splitlines()[-2:]
    assert (wrong.exit_code, shown) == (1, "  猫 fox,  rating: many seed: 3")
    assert caret == " " * 11 + "^"  # 猫 is two wide
    table = luna_dt("images", "number 4", home=home).stdout
    assert table.split()[:3] == ["id", "path", "prompt"]
    assert "a fox, number 4" in table
    stock.run(home.parent / "dt" / "diffusion-toolkit.db", "UPDATE Image SET Prompt = '<lora:x:1> [red]' WHERE Id = 4")
    assert synced or "<lora:x:1> [red]" in luna_dt("images", "seed: 4", home=home).stdout
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


def test_a_training_set_is_a_call_too(home: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with Library(home) as library:
        done = library.export(
            "fox", tmp_path / "set", captions="tags", trigger=" zorro ", progress=lambda *at: told.append(at)
        )
        assert (done.folder, done.exported, [i for i, _ in done.failed]) == (tmp_path / "set", 4, [5])
        assert told[-1] == ("export", 5, 5)
        with pytest.raises(BadInput, match="combined"):
            library.export("fox", tmp_path / "other", captions="words")  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="trigger"):
            library.export("fox", tmp_path / "other", captions="none", trigger="x")
        with pytest.raises(BadQuery):
            library.export("size: none", tmp_path / "other")
    assert not (tmp_path / "other").exists()


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


GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "pony.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a graph's fox", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["1", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 48, "batch_size": 1}},
    "5": {"class_type": "KSampler", "inputs": {
        "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0], "seed": 2**63 + 7,
        "steps": 9, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}},
    "8": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}},
    "9": {"class_type": "LoadImage", "inputs": {"image": "y.png"}},
}  # fmt: skip
TEXT = 'ein Fuchs, "größer" 猫\nzweite Zeile\nNegative prompt: unscharf\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 32x48, Model: "a, b", Clip skip: 2'


def told_of(image_id: int, **answered: Any) -> Any:
    (known,) = answered["images"]
    assert known["image"]["id"] == image_id
    return known


def test_show_tells_of_an_image_and_of_its_file(home: Path, pictures: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "dt" / "diffusion-toolkit.db"
    stock.insert(file, "Album", {"Id": 3, "Name": "Füchse"})
    stock.insert(file, "AlbumImage", {"AlbumId": 3, "ImageId": 1})
    answer("sync", home=home)
    known = told_of(1, **answer("show", 1, home=home))
    assert known["captions"]["tags"] == ["animal", "red fur"]
    assert known["clusters"] == [{"id": 3, "name": "Füchse", "confidence": 1.0}]
    assert (known["layers"], known["maps"]) == ([], [])
    assert [node["image_id"] for node in known["lineage"]] == [1]
    answer("map", "--id", 1, "canny", "--out", tmp_path, home=home)
    with_library(
        home, lambda library: library.record({"source_image_id": 1, "operation": "img2img", "prompt": "from 1"})
    )
    known = told_of(1, **answer("show", pictures[0], home=home))
    assert known["maps"] == ["canny"]
    assert [node["depth"] for node in known["lineage"]] == [0, 1]
    shown = luna_dt("show", 1, home=home).stdout
    for part in ("animal, red fur", "Füchse (3)", "canny", "img2img"):
        assert part in shown
    for nobody in ("77", tmp_path / "nothing.png", tmp_path):
        assert luna_dt("show", nobody, home=home).exit_code == 1


def with_library(home: Path, do: Any) -> None:
    with Library(home) as library:
        do(library)


def test_show_finds_an_image_through_the_path_map(home: Path, pictures: list[Path], tmp_path: Path) -> None:
    stock.run(tmp_path / "dt" / "diffusion-toolkit.db", "UPDATE Image SET Path = 'D:\\Bilder\\A\\Fox.png' WHERE Id = 1")
    with (home / "settings.toml").open("a", encoding="utf-8") as settings:
        settings.write(f"[path_map]\n'd:\\bilder' = '{tmp_path / 'pictures'}'\n")
    answer("sync", home=home)
    assert told_of(1, **answer("show", pictures[0], home=home))


def saved(path: Path, graph: object = None, text: str = "", order: str = "be") -> Path:
    """A picture with a text, a graph or both, as AUTOMATIC1111 and ComfyUI write them into its format."""
    picture = Image.new("RGB", (32, 48))
    if path.suffix == ".png":
        info = PngInfo()
        if text:
            info.add_itxt("parameters", text)
        if graph:
            info.add_text("prompt", json.dumps(graph))
            info.add_text("workflow", "{}")
        picture.save(path, pnginfo=info)
        return path
    exif = picture.getexif()
    if text:
        comment = b"UNICODE\0" + text.encode(f"utf-16-{order}") if order else b"ASCII\0\0\0" + text.encode()
        exif.get_ifd(0x8769)[0x9286] = comment
    if graph:
        exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(graph)}", "workflow:{}"
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("name", "order"), [("x.png", ""), ("x.jpg", "be"), ("x.webp", "be"), ("x.jpg", "le"), ("x.jpg", "")]
)
def test_show_reads_what_a_picture_says(name: str, order: str, home: Path, tmp_path: Path) -> None:
    found = answer("show", saved(tmp_path / name, text=TEXT, order=order), home=home)
    assert found["images"] == []
    said = found["file"]
    assert (said["width"], said["height"]) == (32, 48)
    assert said["made"] == {
        "prompt": 'ein Fuchs, "größer" 猫\nzweite Zeile', "negative": "unscharf", "steps": 20, "sampler": "Euler a",
        "cfg": 7, "seed": 5, "width": 32, "height": 48, "model": "a, b",
    }  # fmt: skip
    shown = luna_dt("show", tmp_path / name, home=home).stdout
    assert "zweite Zeile" in shown
    assert "this library has no image at that path" in shown


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.jpg"])
def test_show_reads_a_graph(name: str, home: Path, tmp_path: Path) -> None:
    said = answer("show", saved(tmp_path / name, graph=GRAPH), home=home)["file"]
    assert said["made"] == {
        "prompt": "a graph's fox", "negative": "blurry", "seed": 2**63 + 7, "steps": 9, "cfg": 6.5, "denoise": 1.0,
        "sampler": "euler", "scheduler": "normal", "model": "pony.safetensors", "loras": [], "width": 32, "height": 48,
    }  # fmt: skip
    both = answer("show", saved(tmp_path / name, graph=GRAPH, text=TEXT), home=home)["file"]
    assert both["made"]["seed"] == 5


@pytest.mark.parametrize(
    "graph",
    [
        {"1": {"class_type": "SaveImage", "inputs": {}}},
        {"1": {"class_type": 5}},
        ["class_type"],
        {**GRAPH, "7": {}, "8": {}},
    ],
)
def test_what_is_not_understood_is_left_out(graph: object, home: Path, tmp_path: Path) -> None:
    said = answer("show", saved(tmp_path / "x.png", graph=graph), home=home)["file"]
    assert said["made"].get("prompt") in (None, "a graph's fox")
    (tmp_path / "no.png").write_bytes(b"\x89PNG nothing")
    wrong = luna_dt("show", tmp_path / "no.png", "--json", home=home)
    assert (wrong.exit_code, json.loads(wrong.stdout)["error"]["code"]) == (1, "bad_picture")
