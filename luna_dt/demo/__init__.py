"""The demo: everything luna_dt does for a person, on a library it draws itself, without a network."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LunaError, MissingExtra, Unreachable
from ..library import Library
from ..settings import Settings

if TYPE_CHECKING:
    from ..pixels import Picture
    from .database import Drawing


def run(folder: Path, pictures: int, tell: Callable[[str], None]) -> None:
    """Draws a library, serves and syncs it, searches it, closes everything and searches again; then the same pictures as
    stock DT has them.

    Leaves ``folder`` with the pictures, the mirrored libraries and contact-sheet.png.  Raises LunaError.
    """
    try:
        import open_clip  # noqa: F401
        import psycopg
    except ImportError as error:
        raise MissingExtra(str(error.name), "demo") from error
    from ..models import Encoders
    from ..pixels import read_pictures
    from ..sheet import contact_sheet
    from . import database, drawing

    folder = folder.absolute()
    for home in (folder / "library", folder / "stock" / "library"):
        if (home / "library.db").exists():  # the last demo's
            shutil.rmtree(home)
    settings = Settings(home=folder / "library")
    clock = _Clock(tell)
    encoders = Encoders(settings)

    drawings = database.draw_library(folder / "pictures", pictures)
    reference = drawing.draw(drawing.random_scene(random.Random(2026), "cat"), (320, 320))
    reference.save(folder / "reference.png")
    clock(f"drew {pictures} pictures of {len(drawing.SUBJECTS)} subjects into {folder / 'pictures'}")

    opened = [read_pictures(d.path)[0] for d in drawings]
    prompts = encoders.texts(database.TINY_TEXT, [d.scene.caption for d in drawings])
    vectors = {"visual": encoders.pictures(database.TINY_IMAGE, opened), "semantic": prompts, "composition": prompts}
    clock("encoded pictures and prompts with the tiny CLIP model")

    # PostgreSQL's socket path must be short, so its data does not live under the folder
    with tempfile.TemporaryDirectory(prefix="luna-dt-demo-", ignore_cleanup_errors=True) as data:
        with database.postgres(Path(data)) as address:
            with psycopg.connect(address) as connection:
                database.create_tables(connection, "demo", database.IDENTITIES)
                database.fill(connection, drawings, vectors)
            clock("started PostgreSQL with pgvector and filled DiffusionToolkit's tables")
            with served(f"{address}&schema=demo") as url:
                clock(f"served it as the REST contract at {url}")
                with Library(settings=settings, dt=url) as library:
                    for change in library.sync():
                        tell(f"             {change.kind}: {change.added} new")
                    clock("synced")
                    again = library.sync()
                    clock(f"synced again: {sum(c.added + c.changed + c.removed for c in again)} rows had changed")
                    hits = library.search(reference, top_k=9)
                    clock(f"searched by {folder / 'reference.png'} with the server running")
            clock("stopped the server")
        clock("stopped the database")
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        for layer in database.IDENTITIES:
            verdict = library.verify(layer)
            if not verdict.passed:
                raise LunaError(f"layer {layer} {verdict}; please report this")
        clock(f"made vectors of {', '.join(database.IDENTITIES)} again: they match")
        made = library.embed("style", model=database.TINY_JOINT.model)
        best = library.search(text="a red fish", layer="style", top_k=1)[0]
        clock(f"made layer style here, {made.encoded} pictures; 'a red fish' finds: {best.image.prompt}")
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        offline = library.search(reference, top_k=9)
        clock("searched again with everything closed")
        if [hit.id for hit in offline] != [hit.id for hit in hits]:
            raise LunaError("the offline search answered differently; please report this")
        found = [(library.picture(hit.id), hit.caption, hit.image.prompt) for hit in offline]
        for hit in offline:
            tell(f"             {hit.similarity:.3f}  {hit.id:>4}  {hit.image.prompt}")
        edges = folder / "reference_canny.png"
        library.map("canny", reference).picture.save(edges)
        if not library.map("canny", reference).was_cached:
            raise LunaError("a ControlNet map that was made was not kept; please report this")
        clock(f"made a ControlNet map, {edges}, and found it again")
    sheet = folder / "contact-sheet.png"
    contact_sheet(reference, "reference.png", found).save(sheet)
    same = sum(drawings[hit.id - 1].scene.subject == "cat" for hit in offline)
    clock(f"drew {sheet}: {same} of {len(offline)} hits show a cat, as the reference does")
    _stock_way(folder / "stock", drawings, reference, clock)


def _stock_way(folder: Path, drawings: list[Drawing], reference: Picture, clock: _Clock) -> None:
    """The same pictures as stock DT has them, in one SQLite file and without vectors: synced, embedded here, searched."""
    from . import database, stock

    file = folder / "diffusion-toolkit.db"
    stock.create(file, drawings)
    clock(f"wrote the same pictures as stock DiffusionToolkit has them, {file}")
    with Library(folder / "library", dt=str(file)) as library:
        new = {change.kind: change.added for change in library.sync()}
        best = library.images(f'saved: "{stock.SAVED_SEARCH}"')
        clock(
            f"synced it: {', '.join(f'{count} {kind}' for kind, count in new.items())}; its saved search finds {len(best)}"
        )
        made = library.embed("visual", model=database.TINY_JOINT.model)
        hits = library.search(reference, top_k=9)
        same = sum(drawings[hit.id - 1].scene.subject == "cat" for hit in hits)
        clock(f"made layer visual of {made.encoded} pictures and searched: {same} of {len(hits)} hits show a cat")


class _Clock:
    """Says each step with the seconds it took."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._at = tell, time.monotonic()

    def __call__(self, step: str) -> None:
        now = time.monotonic()
        self._tell(f"{now - self._at:8.2f} s   {step}")
        self._at = now


@contextlib.contextmanager
def served(address: str, token: str = "") -> Iterator[str]:
    """``luna-dt serve`` in a process of its own, ready when the context begins, ended with it; gives its URL.

    It keeps maps in a home that goes with it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "luna_dt", "serve", "--db", address, "--port", str(port)]
    if token:
        command += ["--token", token]
    here = str(Path(__file__).resolve().parents[2])
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="luna-dt-serve-", ignore_cleanup_errors=True) as home:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
            "LUNA_DT_HOME": home,
        }
        server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            _wait_until_ready(url, token, server)
            yield url
        finally:
            server.terminate()
            server.communicate(timeout=20)


def _wait_until_ready(url: str, token: str, server: subprocess.Popen[str], seconds: float = 60) -> None:
    """Returns when a server just started answers; raises Unreachable with its last words if it does not."""
    from ..dt.rest import RestCatalog

    deadline = time.monotonic() + seconds
    with contextlib.closing(RestCatalog(url, token, timeout=5)) as catalog:
        while True:
            try:
                catalog.health()
                return
            except Unreachable:
                if server.poll() is not None or time.monotonic() > deadline:
                    server.kill()
                    raise Unreachable(f"the server did not start: {server.communicate()[1].strip()[-500:]}") from None
                time.sleep(0.1)
