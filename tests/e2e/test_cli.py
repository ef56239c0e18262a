"""The ``luna-dt`` command, run as people and programs run it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from luna_dt import Library
from tests.conftest import Drawn
from tests.weights import figure

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def luna_dt(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "luna_dt", "--home", str(home), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, encoding="utf-8")


def answer(*arguments: object, home: Path) -> Any:
    done = luna_dt(*arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library synced once through the server; what follows is asked with DT's address leading nowhere."""
    folder = tmp_path_factory.mktemp("Bücher") / "home"
    changes = {c["kind"]: c for c in answer("sync", "--dt", server, home=folder)}
    assert {kind: c["added"] for kind, c in changes.items()} == {
        "images": 100, "captions": 100, "clusters": 3,
        "embeddings.visual": 100, "embeddings.semantic": 100, "embeddings.composition": 100,
    }  # fmt: skip
    (folder / "settings.toml").write_text("dt = 'http://127.0.0.1:9'\n")
    return folder


def subjects(hits: list[dict[str, Any]], drawn: Drawn) -> list[str]:
    return [drawn.drawings[hit["id"] - 1].scene.subject for hit in hits]


def test_search_by_picture_offline(home: Path, drawn: Drawn, tmp_path: Path) -> None:
    wanted = drawn.drawings[30]
    hits = answer("search", "--image", wanted.path, "-k", 4, home=home)
    assert hits[0]["id"] == 31
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert hits[0]["prompt"] == wanted.scene.caption
    assert subjects(hits, drawn).count(wanted.scene.subject) >= 3


def test_search_by_id_vector_and_text(home: Path, drawn: Drawn, tmp_path: Path) -> None:
    by_id = answer("search", "--id", 31, "-k", 3, home=home)
    assert 31 not in [hit["id"] for hit in by_id]
    np.save(tmp_path / "v.npy", drawn.vectors["visual"][30])
    by_vector = answer("search", "--vector", tmp_path / "v.npy", "-k", 4, "--exclude", 31, home=home)
    assert [hit["id"] for hit in by_vector][:3] == [hit["id"] for hit in by_id]
    caption = drawn.drawings[30].scene.caption
    by_text = answer("search", "--text", caption, "--layer", "semantic", "-k", 3, home=home)
    assert by_text[0]["id"] == 31
    assert by_text[0]["similarity"] == pytest.approx(1, abs=1e-4)


def test_conditions_orders_pages_and_near_copies(home: Path, drawn: Drawn) -> None:
    cats = [i + 1 for i, d in enumerate(drawn.drawings) if d.scene.subject == "cat"]
    asked = ("search", "--image", drawn.drawings[30].path, "--where", '"cat"')
    hits = answer(*asked, "-k", 50, home=home)
    assert sorted(hit["id"] for hit in hits) == cats
    page = answer(*asked, "-k", 2, "--offset", 2, home=home)
    assert [hit["id"] for hit in page] == [hit["id"] for hit in hits[2:4]]
    newest = answer(*asked, "-k", 50, "--order", "date", "--min-similarity", -0.99, home=home)
    assert sorted(hit["id"] for hit in newest) == cats
    assert [hit["created"] for hit in newest] == sorted((hit["created"] for hit in hits), reverse=True)
    alike = answer("search", "--id", 31, "-k", 100, "--collapse", 0.9, home=home)
    assert len(alike) < 99
    assert sum(hit.get("stands_for", 1) for hit in alike) == 99
    for by in ("seed", "file"):
        assert len(answer("search", "--id", 31, "-k", 5, "--diverse", 0.5, "--collapse", by, home=home)) == 5
    told = luna_dt(*asked, "--explain", "--collapse", 0.9, home=home)
    assert f"layer visual: 100 images, of which {len(cats)} fit the condition" in told.stderr
    assert told.stdout.split()[:3] == ["similarity", "id", "images"]
    nothing = luna_dt("search", "--id", 31, "--where", "steps: 9999", home=home)
    assert (nothing.returncode, nothing.stdout) == (0, "nothing found\n")


def test_a_text_without_a_layer_says_where_it_is_searched_for(home: Path, drawn: Drawn) -> None:
    caption = drawn.drawings[30].scene.caption
    named = answer("search", "--text", caption, "--layer", "semantic", "-k", 3, home=home)
    told = luna_dt("search", "--text", caption, "-k", 3, "--json", home=home)
    assert json.loads(told.stdout) == named
    assert told.stderr == "the text is searched for in layer semantic; --layer names another\n"


def test_duplicates_are_listed_and_drawn(home: Path, drawn: Drawn, tmp_path: Path) -> None:
    vectors = drawn.vectors["semantic"]
    cosines = vectors @ vectors.T
    least = round(float(np.sort(cosines[np.triu_indices(len(vectors), 1)])[-12]) - 1e-3, 3)  # so that some are copies
    target = tmp_path / "copies.png"
    groups = answer("duplicates", "--layer", "semantic", "--similarity", least, "--contact-sheet", target, home=home)
    counts = [group["count"] for group in groups]
    assert counts == sorted(counts, reverse=True)
    near = cosines >= least
    assert sum(counts) == np.count_nonzero(near.sum(axis=1) > 1)
    first = groups[0]["images"][0]
    assert first["path"] == str(drawn.drawings[first["id"] - 1].path)
    with Image.open(target) as sheet:
        assert sheet.width > 2 * 192
    shown = luna_dt("duplicates", "--layer", "semantic", "--similarity", least, home=home)
    assert f"{len(groups)} groups" in shown.stdout
    none = luna_dt("duplicates", "--where", "steps: 9999", home=home)
    assert (none.returncode, none.stdout) == (0, "no image is a copy of another\n")


def test_exact_copies_of_a_folder_take_no_vectors(drawn: Drawn, tmp_path: Path) -> None:
    folder, home, target = tmp_path / "pictures", tmp_path / "home", tmp_path / "copies.png"
    folder.mkdir()
    for i, picture in enumerate((0, 0, 0, 1, 2, 2)):
        shutil.copy(drawn.drawings[picture].path, folder / f"{i}.png")
    assert luna_dt("sync", "--dt", folder, home=home).returncode == 0
    groups = answer("duplicates", "--exact", "--contact-sheet", target, home=home)
    names = [[Path(image["path"]).name for image in group["images"]] for group in groups]
    assert [(group["exact"], group["similarity"]) for group in groups] == [(True, 1.0)] * 2
    assert sorted(map(sorted, names)) == [["0.png", "1.png", "2.png"], ["4.png", "5.png"]]
    assert target.is_file()
    shown = luna_dt("duplicates", "--exact", home=home).stdout
    assert "2 groups; 3 images are exact copies of another one, 0 near copies" in shown
    assert (
        luna_dt("duplicates", "--exact", "--where", "steps: 9999", home=home).stdout
        == "no image is an exact copy of another\n"
    )
    refused = luna_dt("duplicates", home=home)
    assert refused.returncode == 1
    assert "luna-dt duplicates --exact" in " ".join(refused.stderr.split())


def test_verify_embed_and_weighted_search(home: Path, drawn: Drawn, tmp_path: Path) -> None:
    verdicts = answer("verify", home=home)
    assert {layer: v["result"] for layer, v in verdicts.items()} == dict.fromkeys(
        ("visual", "semantic", "composition"), "match"
    )
    shown = luna_dt("verify", "--layer", "visual", "--sample", 8, "--plot", home=home)
    assert shown.returncode == 0
    assert "passed" in shown.stdout
    assert "████" in shown.stdout
    nowhere = luna_dt("verify", "--layer", "style", home=home)
    assert nowhere.returncode == 1
    assert "style: layer 'style' holds no vectors yet" in nowhere.stdout

    made = answer("embed", "--layer", "style", "--model", "luna-tiny:drawings", "--where", '"cat"', home=home)
    cats = [i + 1 for i, d in enumerate(drawn.drawings) if d.scene.subject == "cat"]
    assert (made["encoded"], made["skipped"]) == (len(cats), [])
    hits = answer("search", "--layer", "style", "--text", "a cat", "-k", 50, home=home)
    assert sorted(hit["id"] for hit in hits) == cats
    refused = luna_dt("embed", "--layer", "visual", "--model", "luna-tiny:drawings", home=home)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    picture = drawn.drawings[30].path
    terms = ("--term", "visual", 1, picture, "--term", "semantic", -0.5, "id:5", "--term", "style", 0.2, "text:a cat")
    weighted = answer("search", *terms, "-k", 100, home=home)
    assert weighted[0]["id"] == 31
    assert 5 not in [hit["id"] for hit in weighted]
    mixed = luna_dt("search", *terms, "--id", 3, home=home)
    assert mixed.returncode == 2
    assert "--term stands for itself" in mixed.stderr
    assert luna_dt("embed", "--layer", "style", "--forget", home=home).returncode == 0


def test_a_map_of_a_picture_and_one_whose_weights_are_missing(
    home: Path, drawn: Drawn, tmp_path: Path, empty_hub: Path
) -> None:
    source = tmp_path / "photo [1].png"
    shutil.copy(drawn.drawings[30].path, source)
    out = tmp_path / "out"
    done = luna_dt("map", "--image", source, "lineart", "canny", "-o", out, home=home)
    assert done.returncode == 1
    assert "lineart needs sk_model.pth (17 MB) of lllyasviel/Annotators" in done.stderr
    assert f"put it into {home / 'models' / 'lllyasviel/Annotators'}" in done.stderr
    assert "hf download lllyasviel/Annotators sk_model.pth" in done.stderr
    assert "canny.png: 384x256, made" in done.stdout.replace("\n", "")
    assert [file.name for file in out.iterdir()] == ["photo [1]_canny.png"]
    with Image.open(out / "photo [1]_canny.png") as made, Image.open(source) as picture:
        assert made.size == picture.size
    told = json.loads(luna_dt("map", "--image", source, "lineart", "canny", "-o", out, "--json", home=home).stdout)
    assert told["canny"] == {"file": str(out / "photo [1]_canny.png"), "was_cached": True}
    assert told["lineart"]["error"]["code"] == "weights"


def test_a_map_by_id_with_parameters_and_keypoints(
    home: Path, drawn: Drawn, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--resolution", "source", "--low", 20, "--high", 60)
    told = answer("map", "--id", 31, "canny", *options, "-o", tmp_path, home=home)
    assert told["canny"]["was_cached"] is False
    with Image.open(drawn.drawings[30].path) as picture, Image.open(tmp_path / "31_canny.png") as made:
        edges = cv2.Canny(np.asarray(picture.convert("RGB")), 20, 60)
        np.testing.assert_array_equal(np.asarray(made.convert("L")), edges)
    monkeypatch.setenv("LUNA_DT_MODELS", str(weights))
    figure(368)[0].save(tmp_path / "figure.png")
    told = answer("map", "--image", tmp_path / "figure.png", "openpose", "-o", tmp_path, home=home)
    pose = json.loads((tmp_path / "figure_openpose.json").read_text(encoding="utf-8"))
    assert told["openpose"]["keypoints"] == str(tmp_path / "figure_openpose.json")
    assert (len(pose["people"]), pose["canvas_width"]) == (1, 368)


def test_every_map_of_a_picture(
    home: Path, tmp_path: Path, weights: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNA_DT_MODELS", str(weights))
    with Image.open(drawn.drawings[30].path) as picture:
        picture.convert("P").save(tmp_path / "palette.png")
    done = luna_dt("map", "--image", tmp_path / "palette.png", "--all", "--resolution", 64, "-o", tmp_path, home=home)
    assert (done.returncode, done.stderr) == (0, "")
    maps = sorted(file.name for file in tmp_path.glob("palette_*.png"))
    assert len(maps) == 13
    for name in maps:
        with Image.open(tmp_path / name) as made:
            assert made.size == (384, 256)


def test_maps_of_many_go_on_after_a_kill(home: Path, drawn: Drawn) -> None:
    command = [sys.executable, "-m", "luna_dt", "--home", str(home), "map", "--where", "", "canny", "--low", "7"]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Library(home) as library:
        before = library.status().maps[0]
        deadline = time.monotonic() + 60
        while library.status().maps[0] < before + 5:
            assert program.poll() is None
            assert time.monotonic() < deadline
        program.kill()
        program.wait(20)
        kept = library.status().maps[0] - before
    assert 5 <= kept < 100, "it was over too soon to mean anything"
    done = answer("map", "--where", "", "canny", "--low", 7, home=home)
    assert done["made"] + done["present"] == 100
    assert done["present"] >= kept
    assert done["failed"] == []
    shown = luna_dt("map", "--where", '"cat"', "canny", "--low", 7, home=home)
    assert "0 maps made" in shown.stdout
    assert "ControlNet maps: " in luna_dt("status", home=home).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--id", 1], 2, "name the types of maps, or give --all; there are: openpose,"),
        (["canny"], 2, "give one of --id, --image and --where"),
        (["canny", "--id", 1, "--image", "x.png"], 2, "give one of --id, --image and --where"),
        (["canny", "--all", "--id", 1], 2, "name the types of maps, or give --all"),
        (["canny", "--id", 1, "--resolution", "large"], 2, "a number of pixels, or source"),
        (["canny", "--where", "", "-o", "x"], 2, "get single ones out with --id"),
        (["smell", "--id", 1], 1, "'smell' is no type of ControlNet map; there are: openpose,"),
        (["canny", "--id", 1, "--low", 300], 1, "canny's thresholds are 0 to 255"),
        (["canny", "--id", 4711], 1, "4711"),
        (["canny", "--image", "gone.png"], 1, "gone.png: No such file"),
        (["canny", "--where", "size: huge"], 1, "size"),
    ],
)
def test_what_cannot_be_mapped_is_told(home: Path, arguments: list[object], code: int, told: str) -> None:
    done = luna_dt("map", *arguments, home=home)
    assert done.returncode == code
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_outbox_lineage_and_batches(home: Path, drawn: Drawn, server: str, tmp_path: Path) -> None:
    with Library(home) as library:
        for i in range(3):
            made = {"source_image_id": 8, "prompt": f"made {i} [b]", "batch_id": "cli", "key": f"cli-{i}"}
            library.record({**made, "output": str(drawn.drawings[8].path)} if i == 0 else made)
    waiting = answer("outbox", "list", home=home)
    assert [(e["prompt"], e["state"]) for e in waiting] == [(f"made {i} [b]", "waiting") for i in range(3)]
    assert "made 0 [b]" in luna_dt("outbox", "list", home=home).stdout
    away = luna_dt("outbox", "send", home=home)
    assert away.returncode == 1
    assert "does not answer" in away.stderr
    dropped = luna_dt("outbox", "drop", waiting[2]["position"], "--reason", "a mistake", home=home)
    assert (dropped.returncode, dropped.stdout) == (0, "1 dropped\n")
    assert luna_dt("outbox", "drop", 999, "--reason", "x", home=home).returncode == 1
    sent = luna_dt("outbox", "send", "--dt", server, home=home)
    assert (sent.returncode, sent.stdout) == (0, "DT took 2; 0 wait, 0 are parked\n")
    lines = luna_dt("outbox", "export", home=home).stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["sent", "sent", "dropped"]
    assert json.loads(lines[2])["reason"] == "a mistake"

    told = luna_dt("lineage", 9, "--dt", server, home=home)
    assert told.returncode == 0, told.stderr
    first, *below = told.stdout.splitlines()
    assert first.startswith("image 8 ")
    assert any("txt2img: image 9  made 0 [b]" in line and line.endswith("<-") for line in below)
    for name in ("tree.svg", "tree.png"):
        assert luna_dt("lineage", 8, "-o", tmp_path / name, home=home).returncode == 0
    with Image.open(tmp_path / "tree.png") as drawing:
        assert drawing.width > 400
    assert "<image" in (tmp_path / "tree.svg").read_text(encoding="utf-8")
    odd = luna_dt("lineage", 8, "-o", tmp_path / "tree.txt", home=home)
    assert (odd.returncode, "must end in .svg or .png" in odd.stderr) == (1, True)

    assert "no batches" in luna_dt("batch", "list", home=home).stdout
    assert luna_dt("batch", "show", home=home).returncode == 2
    unknown = luna_dt("batch", "resume", "none", home=home)
    assert (unknown.returncode, "no batch none" in unknown.stderr) == (1, True)


def test_the_contact_sheet_shows_query_and_hits(home: Path, drawn: Drawn, tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    answer("search", "--image", drawn.drawings[0].path, "-k", 6, "--contact-sheet", target, home=home)
    with Image.open(target) as sheet:
        assert sheet.width > 5 * 192
        colours = sheet.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 20


def test_tables_are_for_people(home: Path, drawn: Drawn) -> None:
    done = luna_dt("search", "--image", drawn.drawings[30].path, "-k", 2, home=home)
    assert done.returncode == 0
    assert "similarity" in done.stdout
    assert "31" in done.stdout
    status = luna_dt("status", home=home).stdout
    for word in ("library", "images", "visual", "luna-tiny", "100.0%"):
        assert word in status


def test_status_tells_programs_what_is_here(home: Path) -> None:
    told = answer("status", home=home)
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert told["kinds"]["images"]["count"] == 100
    assert list(layers) == ["visual", "semantic", "composition"]
    assert layers["visual"]["coverage"] == 1.0
    assert layers["visual"]["identity"]["model"] == "luna-tiny:drawings"
    assert layers["visual"]["synced"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["search", "--image", "gone.png"], "bad_picture", "gone.png: no such file"),
        (["search", "--id", "4711"], "unknown_image", "image 4711"),
        (["search", "--vector", "gone.npy"], "bad_vector", "gone.npy"),
        (["search", "--id", "1", "--layer", "style"], "not_searchable", "luna-dt sync"),
        (["search", "--text", "a cat", "--layer", "visual"], "identity_mismatch", "before the projection"),
        (["search", "--text", "a cat", "--layer", "visual"], "identity_mismatch", "by a text: semantic, composition"),
        (["search", "--id", "1", "--where", "size: huge"], "bad_query", "size"),
        (["search", "--id", "1", "--order", "date"], "bad_input", "min_similarity"),
        (["duplicates", "--layer", "style"], "not_searchable", "luna-dt sync"),
        (["duplicates", "--where", "size: huge"], "bad_query", "size"),
        (["search"], "bad_input", "give one of"),
        (["sync"], "dt_unreachable", "http://127.0.0.1:9 does not answer"),
        (["sync", "--dt", "ftp://x"], "bad_settings", "postgresql://"),
    ],
)
def test_what_fails_says_why_and_ends_with_1(home: Path, arguments: list[str], code: str, told: str) -> None:
    plain = luna_dt(*arguments, home=home)
    assert plain.returncode == 1
    assert told in plain.stderr
    assert "Traceback" not in plain.stderr
    for_programs = luna_dt(*arguments, "--json", home=home)
    assert for_programs.returncode == 1
    assert json.loads(for_programs.stdout)["error"]["code"] == code


def test_an_empty_library_says_what_to_do(tmp_path: Path) -> None:
    assert "luna-dt sync" in luna_dt("status", home=tmp_path).stdout
    assert "luna-dt sync" in luna_dt("search", "--id", 1, home=tmp_path).stderr


def test_a_wrong_command_line_ends_with_2(tmp_path: Path) -> None:
    assert luna_dt("search", "--layer", "smell", home=tmp_path).returncode == 2
    assert luna_dt("fly", home=tmp_path).returncode == 2
    assert (
        "neither a cosine nor seed nor file" in luna_dt("search", "--id", 1, "--collapse", "hash", home=tmp_path).stderr
    )


def test_the_demo(tmp_path: Path) -> None:
    done = luna_dt("demo", "-o", tmp_path / "out", "--pictures", 100, home=tmp_path / "unused")
    assert done.returncode == 0, done.stderr
    assert "searched again with everything closed" in done.stdout
    assert "0 rows had changed" in done.stdout
    assert (tmp_path / "out" / "contact-sheet.png").is_file()
    assert "synced it: 100 images, 100 captions, 25 clusters; its saved search finds 1" in " ".join(done.stdout.split())
    assert "made layer visual of 100 pictures and searched: 4 of 9 hits show a cat" in " ".join(done.stdout.split())
    with Image.open(tmp_path / "out" / "pictures" / "00001-arrow.png") as picture:
        assert "Negative prompt:" in picture.info["parameters"]


def test_the_wheel_is_whole_and_holds_nothing_else(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    needed = {"luna_dt/py.typed", "luna_dt/demo/fork.sql", "luna_dt/models/tiny/open_clip_model.safetensors"}
    assert needed <= set(names)
    assert {name.split("/")[0] for name in names} == {"luna_dt", "luna_dt-0.1.0.dist-info"}
