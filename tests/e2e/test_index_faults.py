"""Files of an index that are lost, damaged, mixed up or out of date: right answers, and an index that heals.

``LUNA_DT_FAULTS=1000 pytest tests/e2e/test_index_faults.py`` injects as many; each is the same whenever it is run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from luna_dt import Library, Settings
from luna_dt.index.engines import ENGINES
from luna_dt.index.shelf import signed
from luna_dt.records import Float32s
from tests.conftest import fill, unit_vectors
from tests.pack import ROOT

pytestmark = pytest.mark.processes

FAULTS = int(os.environ.get("LUNA_DT_FAULTS", "50"))
APART = 10  # of so many faults one is met by a process of its own, whose end is looked at
OLD, ROWS, POINTS, DIM = 1300, 1500, 1250, 16  # more points than are compared without asking an index
TOP = 5
#: A whole graph finds all, an index proves itself sooner, and a busy machine makes it as soon as it answers.
EASED = {"luna_dt.index.hnsw.EF": 500, "luna_dt.index.proof.SAMPLE": 32, "luna_dt.threads.NICE": 0}
Truth = dict[str, Float32s]  # of each layer its vectors, image 1 first


def made(seed: int) -> Float32s:
    """Of all vectors a sixth are repeated."""
    distinct = unit_vectors(POINTS, DIM, seed)
    return distinct[np.r_[:1100, :200, 1100:POINTS, :50]]


TRUTH: Truth = {"visual": made(1), "semantic": made(2)}


@dataclass(frozen=True)
class Home:
    """A library's home that a fault is injected into, and what it may be mixed up with."""

    path: Path
    older: Path  # the same library, of ``OLD`` rows
    other: Path  # the same library, indexed by the other engine
    rng: random.Random

    @property
    def index(self) -> Path:
        return self.path / "index"

    def file(self) -> Path:
        return self.rng.choice(sorted(self.index.iterdir()))

    def like(self, file: Path, folder: Path, same_layer: bool) -> Path:
        """A file of that kind in ``folder``, of the same layer or of another one."""
        layer = file.name.partition("-")[0]
        kind = [each for each in folder.iterdir() if each.suffix == file.suffix]
        return next(each for each in kind if (each.name.partition("-")[0] == layer) == same_layer)


def deleted(home: Home) -> None:
    home.file().unlink()


def cut(home: Home) -> None:
    file = home.file()
    os.truncate(file, home.rng.randrange(file.stat().st_size))


def grown(home: Home) -> None:
    with home.file().open("ab") as out:
        out.write(home.rng.randbytes(home.rng.choice([1, 64, 5000])))


def changed(home: Home, change: Callable[[bytearray], None]) -> None:
    file = home.file()
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)


def flipped(home: Home) -> None:
    def flip(data: bytearray) -> None:
        data[home.rng.randrange(len(data))] ^= 1 << home.rng.randrange(8)

    changed(home, flip)


def hole(home: Home) -> None:
    def zero(data: bytearray) -> None:
        at, size = home.rng.randrange(len(data)), home.rng.choice([16, 512, 4096])
        data[at : at + size] = bytes(len(data[at : at + size]))

    changed(home, zero)


def another_layers(home: Home) -> None:
    file = home.file()
    shutil.copy(home.like(file, home.index, same_layer=False), file)


def layers_exchanged(home: Home) -> None:
    """All that belongs to one layer has the name of the other's, and the other way round."""
    moved = {}
    for file in sorted(home.index.iterdir()):
        moved[home.like(file, home.index, same_layer=False)] = file.read_bytes()
    for file, data in moved.items():
        file.write_bytes(data)


def another_kind(home: Home) -> None:
    file = home.file()
    shutil.copy(home.rng.choice([each for each in sorted(home.index.iterdir()) if each != file]), file)


def older_copy(home: Home) -> None:
    file = home.file()
    shutil.copy(home.like(file, home.older / "index", same_layer=True), file)


def older_folder(home: Home) -> None:
    shutil.rmtree(home.index)
    shutil.copytree(home.older / "index", home.index)


def older_beside(home: Home) -> None:
    shutil.copytree(home.older / "index", home.index, dirs_exist_ok=True)


def other_engines(home: Home) -> None:
    shutil.rmtree(home.index)
    shutil.copytree(home.other / "index", home.index)


def folder_instead(home: Home) -> None:
    file = home.file()
    file.unlink()
    file.mkdir()
    if home.rng.random() < 0.5:
        (file / "in it").write_text("something")


def link_to_nothing(home: Home) -> None:
    file = home.file()
    file.unlink()
    file.symlink_to(home.path / "nowhere")


def unreadable(home: Home) -> None:
    home.file().chmod(0)


def no_folder(home: Home) -> None:
    shutil.rmtree(home.index)
    if home.rng.random() < 0.5:
        home.index.write_bytes(home.rng.randbytes(100))  # a file in its place


def leftovers(home: Home) -> None:
    """What a kill leaves, and worse."""
    deleted(home)
    parts = [each.with_name(each.name + ".part") for each in home.index.iterdir()]
    parts += [each.with_suffix(".part") for each in home.index.glob("*.json")]
    for part in sorted(parts):
        if home.rng.random() < 0.3:
            part.mkdir()
        else:
            part.write_bytes(home.rng.randbytes(100))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


WRONG = ["-5", "0", "1300", "1e999", "NaN", "1" + "0" * 400, "9" * 5000, '"1500"', '"x"', "null", "true", "[]", "{}",
         "[[1, [2]]]", '{"a": {"b": []}}', nested(50), nested(100_000)]  # fmt: skip


def edited(home: Home) -> None:
    """One field of a description, or of what is in it, is another value; half of them are signed as if we had."""
    file = home.rng.choice(sorted(home.index.glob("*.json")))
    told = json.loads(file.read_text())
    fields = ("rows", "engine", "files", "proof", "refused", "dim", "vectors", "identity", "metric", "vectors_sha256")
    at, name = told, home.rng.choice(fields)
    while isinstance(at[name], dict) and home.rng.random() < 0.7:
        at, name = at[name], home.rng.choice(sorted(at[name]))
    at[name] = "HERE"
    wrong = home.rng.choice(WRONG)
    if home.rng.random() < 0.5:
        try:
            told = signed(json.loads(json.dumps(told).replace('"HERE"', wrong)))
            file.write_text(json.dumps(told))
            return
        except (RecursionError, ValueError):
            pass
    file.write_text(json.dumps(told).replace('"HERE"', wrong))


def no_description(home: Home) -> None:
    file = home.rng.choice(sorted(home.index.glob("*.json")))
    file.write_bytes(home.rng.choice([b"", b"{", b"[]", b"7", b"null", b"\xff\xfe\x00", nested(100_000).encode()]))


def locks(home: Home) -> None:
    for name in ("index.lock", "open.lock", "sync.lock"):
        if home.rng.random() < 0.5:
            (home.path / name).write_bytes(home.rng.randbytes(100))
        else:
            (home.path / name).unlink(missing_ok=True)
    deleted(home)


def lock_is_folder(home: Home) -> None:
    (home.path / "index.lock").unlink(missing_ok=True)
    (home.path / "index.lock").mkdir()
    deleted(home)


def several(home: Home) -> None:
    for fault in home.rng.sample([cut, grown, flipped, hole], 3):
        fault(home)


def restored(home: Home) -> Truth:
    """An older library.db; then, as a sync would, other vectors behind those it knows, before or after it is searched."""
    shutil.copy(home.older / "library.db", home.path / "library.db")
    for name in ("library.db-wal", "library.db-shm"):
        (home.path / name).unlink(missing_ok=True)
    truth = {layer: vectors[:OLD] for layer, vectors in TRUTH.items()}
    if home.rng.random() < 0.5:
        others = unit_vectors(ROWS - OLD, DIM, seed=9)
        with Library(home.path) as library:
            for layer in truth:
                fill(library, others, OLD + 1, layer)
        truth = {layer: np.concatenate([vectors, others]) for layer, vectors in truth.items()}
    return truth


KINDS: list[Callable[[Home], Truth | None]] = [
    deleted, cut, grown, flipped, hole, another_layers, layers_exchanged, another_kind, older_copy, older_folder,
    older_beside, other_engines, folder_instead, no_folder, leftovers, edited, edited, edited, no_description, locks,
    lock_is_folder, several, restored, restored,
]  # fmt: skip
if sys.platform != "win32":
    KINDS += [link_to_nothing]
    if os.geteuid():  # root reads everything
        KINDS += [unreadable]


def check(library: Library, truth: Truth, seed: int) -> None:
    """Every answer is brute force's; equally near ones may come in any order."""
    for layer, vectors in truth.items():
        rng = np.random.default_rng(seed)
        for near in vectors[rng.integers(0, len(vectors), 6)]:
            query = near + np.float32(0.2 * rng.random()) * rng.standard_normal(DIM).astype(np.float32)
            cosines = vectors @ (query / np.linalg.norm(query))
            ids, similarities = library.nearest(query, layer, TOP)
            assert len(set(ids.tolist())) == TOP
            assert np.abs(similarities - np.sort(cosines)[::-1][:TOP]).max() < 1e-5
            assert np.abs(similarities - cosines[ids - 1]).max() < 1e-5


def files(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (path / "index").iterdir()}


def survive(path: Path, engine: str, truth: Truth, seed: int) -> bool:
    """Right answers at once and when the background is done; gives whether the index is healed, and for good then."""
    with Library(settings=Settings(home=path, index=engine)) as library:
        check(library, truth, seed)
        library.wait()
        check(library, truth, seed + 1)
        healed = True
        for layer in library.status().layers:
            whole = layer.engine == engine and layer.indexed == len(truth[layer.state.name])
            assert whole or layer.reason != f"{engine}, as the setting index says", layer
            healed &= whole
    before = files(path)
    with Library(settings=Settings(home=path, index=engine)) as library:
        check(library, truth, seed + 2)
        library.wait()
        check(library, truth, seed + 3)
    assert files(path) == before
    return healed


SURVIVE = """
import sys
from pathlib import Path
import numpy as np
from tests.e2e.test_index_faults import EASED, survive
for name, value in EASED.items():
    module, _, constant = name.rpartition(".")
    setattr(sys.modules[module], constant, value)
healed = survive(Path(sys.argv[1]), sys.argv[2], dict(np.load(sys.argv[3])), int(sys.argv[4]))
print("healed" if healed else "not healed")
"""


def survive_elsewhere(path: Path, engine: str, truth: Truth, seed: int) -> bool:
    """The same in a process of its own."""
    np.savez(path.parent / "truth.npz", **truth)  # type: ignore[arg-type]
    command = [sys.executable, "-c", SURVIVE, str(path), engine, str(path.parent / "truth.npz"), str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout.strip() == "healed"


BUILT = [
    pytest.param(name, marks=pytest.mark.skipif(not ENGINES[name][0].installed(), reason=f"{name} is not installed"))
    for name in ("hnswlib", "scan")
]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """For each engine a home whose index is whole, and the same of ``OLD`` rows."""
    homes = {}
    for engine in ("hnswlib", "scan"):
        folder = tmp_path_factory.mktemp(engine)
        old, now = folder / "old", folder / "now"
        for first, last, home in ((0, OLD, old), (OLD, ROWS, now)):
            if home == now:
                shutil.copytree(old, now)
            with Library(settings=Settings(home=home, index=engine)) as library:
                for layer, vectors in TRUTH.items():
                    fill(library, vectors[first:last], first + 1, layer)
                library.index()
        homes[engine] = old, now
    return homes


@pytest.mark.parametrize("engine", BUILT)
def test_whatever_happens_to_its_files_the_answers_are_right_and_an_index_heals(
    engine: str, homes: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in EASED.items():
        monkeypatch.setattr(name, value)
    other = homes["scan" if engine == "hnswlib" else "hnswlib"][1]
    unhealed = 0
    for seed in range(engine == "scan", FAULTS, 2):  # by turns, so that both meet all kinds
        rng = random.Random(seed)
        home = Home(tmp_path / f"home {seed}", homes[engine][0], other, rng)
        shutil.copytree(homes[engine][1], home.path)
        inject = KINDS[seed // 2 % len(KINDS)]
        try:
            truth = inject(home) or TRUTH
            meet = survive_elsewhere if seed // 2 % APART == APART - 1 else survive
            healed = meet(home.path, engine, truth, seed)
        except BaseException as error:
            raise AssertionError(f"fault {seed}, {inject.__name__}, was too much for {engine}") from error
        assert healed or inject is edited, f"fault {seed}, {inject.__name__}, is never healed"
        unhealed += not healed
        shutil.rmtree(home.path)
    assert unhealed <= FAULTS // 10  # where we seem to have refused the engine ourselves


TWO = """
import sys, time
from pathlib import Path
import numpy as np
from luna_dt import Library, Settings
from luna_dt.index import proof
from luna_dt.index.rows import RowIndex
from luna_dt.index.scan import ScanEngine
from tests.e2e.test_index_faults import TRUTH, check
builds, asked, build, query = [], [], ScanEngine.build, RowIndex.query
def slow(*given):
    builds.append(given)
    time.sleep(1)
    return build(*given)
def counted(*given):
    asked.append(given)
    return query(*given)
ScanEngine.build, RowIndex.query, proof.SAMPLE = slow, counted, 32
truth = {"visual": TRUTH["visual"]}
with Library(settings=Settings(home=Path(sys.argv[1]), index="scan")) as library:
    print("ready", flush=True)
    sys.stdin.readline()
    while not library.status().layers[0].indexed:
        check(library, truth, len(asked))
        time.sleep(0.02)
    library.wait()
    asked.clear()
    check(library, truth, 1)
    print(len(builds), len(asked))
"""


@pytest.mark.skipif(not ENGINES["scan"][0].installed(), reason="numkong is not installed")
def test_of_two_processes_one_builds_and_both_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Library(home) as library:
        fill(library, TRUTH["visual"])
    command = [sys.executable, "-c", TWO, str(home)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in both:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    told = [each.communicate(timeout=300)[0].split() for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert sorted(builds for builds, _ in told) == ["0", "1"]
    assert all(int(asked) > 0 for _, asked in told)  # each by the index
    assert len(files(home)) == 3
