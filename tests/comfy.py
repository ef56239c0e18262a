"""A real ComfyUI with this pack, and a library for it: for tests, and for the pictures in docs."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import requests
from PIL import Image

from luna_dt import Library, Settings
from luna_dt.demo import database, served
from luna_dt.demo.drawing import draw
from luna_dt.models import Encoders
from luna_dt.pixels import read_pictures

ROOT = Path(__file__).parents[1]
IS_THERE = {"COMFYUI_PATH", "COMFYUI_PYTHON"} <= set(os.environ)
AWAY = "http://127.0.0.1:9"


def until(true: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def mirrored(folder: Path, postgres: str, schema: str, size: int) -> Iterator[str]:
    """The address of a server with 100 drawn pictures of that size, mirrored to ``folder / "home"``."""
    drawings = [
        replace(drawing, size=(size, size), steps=1)
        for drawing in database.draw_library(folder / "pictures", 100, seed=4)
    ]
    for drawing in drawings:
        draw(drawing.scene, drawing.size).save(drawing.path)
    encoders = Encoders(Settings(home=folder))
    vectors = {"visual": encoders.pictures(database.TINY_IMAGE, [read_pictures(d.path)[0] for d in drawings])}
    vectors["semantic"] = encoders.texts(database.TINY_TEXT, [d.scene.caption for d in drawings])
    with psycopg.connect(postgres) as connection:
        identities = {"visual": database.TINY_IMAGE, "semantic": database.TINY_TEXT}
        database.create_tables(connection, schema, identities)
        database.fill(connection, drawings, vectors)
    with served(f"{postgres}&schema={schema}") as url:
        with Library(folder / "home", dt=url) as library:
            library.sync()
        yield url


class ComfyUI:
    """A running ComfyUI of its own, with this pack as its only custom node, or none."""

    def __init__(self, base: Path, environment: dict[str, str], port: int = 0, pack: bool = True) -> None:
        (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
        settings = base / "user" / "default" / "comfy.settings.json"
        if not settings.exists():
            settings.parent.mkdir(parents=True, exist_ok=True)
            settings.write_text(
                json.dumps({"Comfy.TutorialCompleted": True})
            )  # else templates are offered over the graph
        link = base / "custom_nodes" / "luna_dt"
        if pack and not link.exists():
            link.symlink_to(ROOT, target_is_directory=True)
        if not port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        self.home = Path(environment["LUNA_DT_HOME"])
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.log = base / "comfyui.log"
        command = [
            os.environ["COMFYUI_PYTHON"], str(Path(os.environ["COMFYUI_PATH"]) / "main.py"), "--cpu",
            "--port", str(port), "--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes",
            "--database-url", f"sqlite:///{base / 'comfyui.db'}",
        ]  # fmt: skip
        if front_end := os.environ.get("COMFYUI_FRONT_END"):
            command += ["--front-end-root", front_end]
        self._out = self.log.open("w")
        self._process = subprocess.Popen(
            command, cwd=base, env={**os.environ, **environment}, stdout=self._out, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 180
        while True:
            try:
                requests.get(f"{self.url}/system_stats", timeout=5)
                break
            except requests.ConnectionError:
                assert self._process.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.2)
        self.info: dict[str, Any] = requests.get(f"{self.url}/object_info", timeout=60).json()

    def close(self, kill: bool = False) -> None:
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(30)
        self._out.close()

    def run(self, prompt: dict[str, Any], seconds: float = 600) -> dict[str, Any]:
        """What each output node showed; raises AssertionError with ComfyUI's own words when anything failed."""
        answer = requests.post(f"{self.url}/prompt", json={"prompt": prompt}, timeout=60).json()
        assert "prompt_id" in answer, json.dumps(answer)[:3000]
        assert not answer["node_errors"], answer["node_errors"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            history = requests.get(f"{self.url}/history/{answer['prompt_id']}", timeout=60).json()
            if history:
                done: dict[str, Any] = history[answer["prompt_id"]]
                failed = [told for kind, told in done["status"]["messages"] if kind == "execution_error"]
                assert not failed, f"{failed[0]['node_type']}: {failed[0]['exception_message']}"
                outputs: dict[str, Any] = done["outputs"]
                return outputs
            time.sleep(0.1)
        raise AssertionError(f"not done after {seconds} s: {self.log.read_text()[-2000:]}")

    def open_in(self, page: Any) -> None:
        """Has a browser's page be ComfyUI's, until nodes are there: the last workflow, else the one that all begin with."""
        page.goto(self.url)
        page.wait_for_function("!!(window.app?.extensionManager && app.canvas && app.graph.nodes.length)")
        page.wait_for_function(
            "count => Object.keys(LiteGraph.registered_node_types).length >= count", arg=len(self.info)
        )

    def run_in(self, page: Any) -> dict[str, Any]:
        """Queues what the page shows by its own key; the run's end as ComfyUI has it in its history."""

        def history() -> dict[str, Any]:
            told: dict[str, Any] = requests.get(f"{self.url}/history", timeout=60).json()
            return told

        before = set(history())
        page.keyboard.press("Control+Enter")
        until(lambda: history().keys() - before)
        page.wait_for_timeout(300)  # what the page does after a run
        ended: dict[str, Any] = next(entry for key, entry in history().items() if key not in before)
        return ended

    def picture(self, shown: dict[str, str]) -> Image.Image:
        data = requests.get(f"{self.url}/view?{urllib.parse.urlencode(shown)}", timeout=60).content
        return Image.open(io.BytesIO(data))

    def prompt(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A saved workflow in the form the queue takes, as ComfyUI's page makes it."""
        links = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
        prompt = {}
        for node in saved["nodes"]:
            assert node["type"] in self.info, f"missing node {node['type']}"
            declared = self.info[node["type"]]["input"]
            specs = {**declared.get("required", {}), **declared.get("optional", {})}
            values = iter(node["widgets_values"])
            inputs: dict[str, Any] = {}
            for name, spec in specs.items():
                if isinstance(spec[0], list) or spec[0] in ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"):
                    inputs[name] = next(values)
                    if name == "seed" and (spec[1] if len(spec) > 1 else {}).get("control_after_generate", True):
                        next(values)  # what the page does with the seed after a run
            assert not list(values), f"{node['type']} has more values than inputs"
            inputs |= {entry["name"]: links[entry["link"]] for entry in node["inputs"] if entry["link"] is not None}
            prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
        return prompt
