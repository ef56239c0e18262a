"""``luna-dt doctor`` and ``Library.doctor()``: a set-up that is well, and such as are not, each in its own way."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from luna_dt import Finding, Library
from luna_dt.cli import main
from luna_dt.demo import database
from luna_dt.identity import Verdict
from luna_dt.records import Batch, Int64s
from tests import stock
from tests.conftest import beside, unit_vectors
from tests.loopback import Handler, Loopback

IDS: Int64s = np.arange(1, 9, dtype=np.int64)


@pytest.fixture
def dt(tmp_path: Path) -> Path:
    """A stock DT with eight pictures, which lie on this machine."""
    file = tmp_path / "dt" / "diffusion-toolkit.db"
    stock.create(file, "1.9")
    folder = tmp_path / "pictures" / "2026"
    folder.mkdir(parents=True)
    for i in IDS.tolist():
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    insert(file, folder)
    return file


def insert(file: Path, folder: Path, first: int = 1, what: str = "a fox") -> None:
    rows = [
        {"Id": i, "Path": f"{folder}/{i}.png", "Prompt": f"{what} {i}", "Seed": first * i, "Width": 32, "Height": 32,
         "CreatedDate": stock.ticks("2026-01-31T23:59:58") + first * 10**7}
        for i in IDS.tolist()
    ]  # fmt: skip
    stock.insert(file, "Image", *rows)


@pytest.fixture
def home(dt: Path, tmp_path: Path, empty_hub: Path) -> Path:
    """Synced from it, with a layer that the tiny model made and that passed; no hub, so that all must be here."""
    made = tmp_path / "home"
    made.mkdir()
    (made / "settings.toml").write_text(f"dt = '{dt}'\ndevice = 'cpu'\nindex = 'exact'\n", encoding="utf-8")
    with Library(made) as library:
        library.sync()
        identity = database.TINY_IMAGE
        verdict = Verdict("match", identity, identity, 8, 1.0, 1.0, 0.0, 1.0, when="2026-02-01T00:00:00+00:00")
        with beside(library) as store:
            store.prepare_layer("visual", identity, local=True)
            store.put("embeddings.visual", Batch(IDS, IDS, unit_vectors(8, identity.dim)))
            store.finish("embeddings.visual", "a test")
            store.judge(store.layer("visual"), verdict)
    return made


def examined(home: Path, *arguments: object) -> tuple[int, list[Finding]]:
    done = CliRunner().invoke(main, ["--home", str(home), "doctor", *map(str, arguments), "--json"])
    return done.exit_code, [Finding(**each) for each in json.loads(done.stdout)]


def troubles(home: Path, *arguments: object) -> list[Finding]:
    """What is in trouble, each said with a next step, and with exit status 1."""
    status, findings = examined(home, *arguments)
    found = [each for each in findings if each.level == "trouble"]
    assert status == (1 if found else 0)
    assert all(each.says and (each.step or each.level == "ok") for each in findings), findings
    return found


def only(home: Path, about: str, *arguments: object) -> Finding:
    (found,) = troubles(home, *arguments)
    assert found.about == about
    return found


def test_what_is_well_is_said_to_be(home: Path) -> None:
    assert troubles(home) == []
    said = {each.about: each for each in examined(home)[1] if each.level == "ok"}
    assert "DiffusionToolkit 1.9 answers" in said["dt"].says
    assert "8 images are here" in " ".join(each.says for each in examined(home)[1])
    assert said["files"].says.startswith("of 8 images looked at, 8 have")
    assert {"home", "library", "layer visual", "weights", "outbox", "versions", "device", "disk"} <= said.keys()
    with Library(home) as library:
        assert [each.about for each in library.doctor()] == [each.about for each in examined(home)[1]]
    shown = CliRunner().invoke(main, ["--home", str(home), "doctor"])
    assert shown.exit_code == 0
    assert "ok      dt: DiffusionToolkit 1.9" in shown.stdout


def test_nothing_is_changed(home: Path) -> None:
    before = {
        path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.suffix in ("", ".db", ".f32")
    }
    examined(home)
    assert {path: path.read_bytes() for path in before} == before


def test_dt_that_is_away(home: Path, tmp_path: Path) -> None:
    assert "does not answer" in only(home, "dt", "--dt", "http://127.0.0.1:9").says
    assert "is not there" in only(home, "dt", "--dt", tmp_path / "nowhere.db").says
    assert "is no address of DT" in only(home, "dt", "--dt", "ftp://nowhere").says


def test_what_is_no_dt(home: Path, dt: Path) -> None:
    stock.run(dt, "ALTER TABLE Image RENAME TO Pictures")
    assert "no table Image" in only(home, "dt").says


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_token_that_is_refused(token: str, home: Path) -> None:
    class Refusing(Handler):
        def do_GET(self) -> None:  # noqa: N802
            said = b'{"code": "no_token", "detail": "send the token"}'
            self.send_response(401)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    with (home / "settings.toml").open("a") as settings:
        settings.write(f"token = '{token}'\n")
    with closing(Loopback(Refusing)) as server:
        found = only(home, "token", "--dt", server.url)
    assert ("none is set" in found.says) == (not token)
    assert "DT_API_TOKEN" in found.step


def test_another_dt(home: Path, dt: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "diffusion-toolkit.db"
    stock.create(other, "1.10")
    assert "none of 8 images" in only(home, "home", "--dt", other).says
    insert(other, tmp_path / "elsewhere", 7, "a dog")
    found = only(home, "home", "--dt", other)
    assert "a dog 1" in found.says
    assert "luna-dt sync --accept" in found.step
    moved = tmp_path / "moved" / "diffusion-toolkit.db"
    moved.parent.mkdir()
    shutil.copy(dt, moved)
    assert troubles(home, "--dt", moved) == []


def test_a_wrong_path_map_and_one_that_would_fit(home: Path, dt: Path, tmp_path: Path) -> None:
    stock.run(dt, "UPDATE Image SET Path = 'D:\\Bilder\\2026\\' || Id || '.png'")
    with Library(home) as library:
        library.sync()
    assert f"'D:\\Bilder' = '{tmp_path / 'pictures'}'" in only(home, "files").step  # beside the database's folder
    (tmp_path / "wrong").mkdir()
    with (home / "settings.toml").open("a", encoding="utf-8") as settings:
        settings.write(f"[path_map]\n'D:\\Bilder' = '{tmp_path / 'wrong'}'\n")
    found = only(home, "files")
    assert "0 have their file" in found.says
    assert f"'D:\\Bilder' = '{tmp_path / 'pictures'}'" in found.step
    shutil.rmtree(tmp_path / "pictures")
    assert "[path_map]" in only(home, "files").step


def test_files_that_are_gone_in_part(home: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "2026" / "3.png").unlink()
    assert troubles(home) == []
    (note,) = [each for each in examined(home)[1] if each.about == "files"]
    assert (note.level, "7 have" in note.says) == ("note", True)


def test_a_damaged_library(home: Path) -> None:
    file = home / "library.db"
    content = bytearray(file.read_bytes())
    for page in range(4096, len(content), 3 * 4096):
        content[page : page + 2000] = bytes(2000)
    file.write_bytes(content)
    for log in home.glob("library.db-*"):
        log.unlink()
    assert {each.about for each in troubles(home)} & {"library"}
    file.write_bytes(b"no database at all" * 1000)
    found = only(home, "library")
    assert "library.db" in found.says
    assert {"versions", "disk"} <= {each.about for each in examined(home)[1]}


def test_vectors_that_are_damaged_or_gone(home: Path) -> None:
    (file,) = (home / "vectors").glob("visual-*.f32")
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    assert "damaged" in only(home, "layer visual").says
    file.write_bytes(content[:100])
    assert "shorter" in only(home, "layer visual").says
    file.unlink()
    assert only(home, "layer visual")


def change_layer(home: Path, identity: Any = None, verdict: Any = None) -> None:
    with Library(home) as library, beside(library) as store:
        if identity:
            store.prepare_layer("visual", identity, local=True)
            store.put("embeddings.visual", Batch(IDS, IDS, unit_vectors(8, identity.dim)))
            store.finish("embeddings.visual", "a test")
        if verdict:
            store.judge(store.layer("visual"), verdict)


def test_weights_that_are_missing(home: Path) -> None:
    change_layer(home, replace(database.TINY_IMAGE, architecture="ViT-H-14", weights="laion2b_s32b_b79k"))
    found = only(home, "weights")
    assert "3.9 GB" in found.says
    assert "safetensors" in found.step
    change_layer(home, replace(database.TINY_TEXT, architecture="BAAI/bge-large-en-v1.5", weights="", output="pooled"))
    assert "bge-large-en-v1.5" in only(home, "weights").says


def test_a_layer_that_failed_or_was_never_verified(home: Path) -> None:
    identity = database.TINY_IMAGE
    verdict = Verdict("unknown", identity, None, 8, 0.3, 0.1, 0.1, 0.3, when="2026-02-01T00:00:00+00:00")
    change_layer(home, verdict=verdict)
    assert "luna-dt embed --layer visual" in only(home, "layer visual").step
    change_layer(home, identity)
    assert troubles(home) == []
    assert any("never verified" in each.says and "luna-dt verify" in each.step for each in examined(home)[1])


def test_an_outbox_that_does_not_empty(home: Path) -> None:
    with Library(home) as library:
        library.record({"source_image_id": 1, "operation": "img2img"})
        library.outbox.close()
        with beside(library) as store, store.writing() as db:
            db.execute("UPDATE outbox SET state = 'parked', reason = 'it is wrong'")
    assert "1 records are parked" in only(home, "outbox").says
    with Library(home) as library, beside(library) as store, store.writing() as db:
        db.execute("UPDATE outbox SET state = 'waiting', tries = 3")
    assert "failed try" in only(home, "outbox").says


def test_nothing_synced_a_device_that_is_none(dt: Path, tmp_path: Path, empty_hub: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "settings.toml").write_text(f"dt = '{dt}'\ndevice = 'abacus'\n", encoding="utf-8")
    found = {each.about: each for each in troubles(new)}
    assert "luna-dt sync" in found["library"].step
    assert "abacus" in found["device"].says
    assert found.keys() == {"library", "device"}
