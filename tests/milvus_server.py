"""A real Milvus for tests: the server of PyPI's ``milvus`` wheel, with a password, in a folder of its own."""

from __future__ import annotations

import lzma
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

PASSWORD = "Not-Milvus-1"  # of root; the server listens on every interface, so the usual one is changed first


class Server:
    """The server over a folder; ``start`` and ``kill`` as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._metrics = _free_port(), _free_port()

    @property
    def address(self) -> str:
        return f"milvus+http://root:{PASSWORD}@127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it answers a real question."""
        import milvus

        if self._process is None:
            made = milvus.MilvusServer()
            made.set_base_dir(str(self._folder))
            made.config.set("proxy_port", self._port)
            made.config.set("common.security.authorizationEnabled", True)
            made.config.resolve()
            programs = self._folder / "bin"
            programs.mkdir(exist_ok=True)
            for packed in (Path(milvus.__file__).parent / "data" / "bin").glob("*.lzma"):
                programs.joinpath(packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
                programs.joinpath(packed.stem).chmod(0o755)
        program = self._folder / "bin" / "milvus"
        env = {**os.environ, "DEPLOY_MODE": "STANDALONE", "METRICS_PORT": str(self._metrics)}
        env |= {"LD_LIBRARY_PATH": str(program.parent), "MILVUS_RUN_DIR": str(self._folder / "run")}
        with (self._folder / "out.log").open("ab") as out:
            self._process = subprocess.Popen(
                [program, "run", "standalone"], cwd=self._folder, env=env, stdout=out, stderr=out
            )
        self._wait()

    def _wait(self) -> None:
        from pymilvus import MilvusClient, MilvusException

        uri, last = f"http://127.0.0.1:{self._port}", None
        for _ in range(600):
            assert self._process
            assert self._process.poll() is None, "the server ended by itself"
            for password in (PASSWORD, "Milvus"):
                try:
                    client = MilvusClient(uri, user="root", password=password, timeout=5)
                    client.list_collections(timeout=5)
                    if password != PASSWORD:
                        client.update_password("root", password, PASSWORD)
                        continue
                    client.close()
                    return
                except MilvusException as error:
                    last = error
            time.sleep(0.3)
        raise AssertionError(f"the server never answered: {last}")

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends it by its pid, without a warning."""
        if self._process is not None and self.runs():
            self._process.kill()
            self._process.wait()


class Lite:
    """``milvus-lite``, which is slow and of one process, but speaks as later servers do: it finds texts within texts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, _free_port()

    @property
    def address(self) -> str:
        return f"milvus+http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it answers."""
        from pymilvus import MilvusClient, MilvusException

        where = ["--data-dir", str(self._folder), "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._folder / "out.log").open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "milvus_lite", "server", *where], stdout=out, stderr=out
            )
        for _ in range(300):
            assert self._process.poll() is None, "the server ended by itself"
            try:
                MilvusClient(f"http://127.0.0.1:{self._port}", timeout=5).list_collections(timeout=5)
                return
            except MilvusException:
                time.sleep(0.2)
        raise AssertionError("the server never answered")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
