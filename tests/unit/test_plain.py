"""Text from elsewhere on its ways out: terminal, log, JSON, SVG, PNG."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from luna_dt import Library
from luna_dt.cli.terminal import PlainLines, plain, print_json
from luna_dt.errors import BadInput
from luna_dt.generation import Generation
from luna_dt.made.drawing import as_png, as_svg
from luna_dt.made.lineage import Node
from luna_dt.plain import as_json, checked_json, quoted, shown
from luna_dt.records import ImageRecord
from luna_dt.sheet import contact_sheet
from tests.conftest import fill, image_batch, mirror, unit_vectors

EVERY = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2070), *range(0xD7F0, 0xE000), *range(0xFEF0, 0x10000)]))
EVIL = "a\x1b[2J\x1b]0;owned\x07b\x9b31m\r\x00\u202egnp.x\u2066\x85\x7f"
OBEYED = {*map(chr, range(32)), *map(chr, range(127, 160)), *"\u202e\u2066\u2028\u200f"} - {"\n", "\t"}


def test_nothing_that_is_obeyed_is_shown() -> None:
    told = shown(EVERY)
    assert not set(told) & OBEYED
    told.encode()
    assert shown("äéß中ক\u200d👍") == "äéß中ক\u200d👍"
    assert shown("x" * 100_000, 500) == "x" * 499 + "…"
    assert shown(EVIL).startswith("a\N{REPLACEMENT CHARACTER}[2J")


@pytest.mark.parametrize(
    "value", [EVERY, EVIL, {EVIL: EVIL}, 10**5000, [10**5000], "x" * 10**6, [[[[]]]] * 1000, None], ids=[*"abcdefgh"]
)
def test_any_value_can_be_named_in_an_error(value: Any) -> None:
    told = quoted(value)
    assert len(told) <= 120
    assert not set(told) & {*OBEYED, "\n"}


def test_json_for_a_terminal_is_read_as_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (EVERY[: EVERY.index("\udc00")], {"x": EVIL, "y": [1, None, "\u2028"]}):
        assert json.loads(as_json(value)) == value
        assert not set(as_json(value)) & {*OBEYED, "\n"}
        print_json(value)
        assert json.loads(capsys.readouterr().out) == value


def test_what_cannot_be_said_in_json_is_told() -> None:
    assert json.loads(checked_json({"a": ["ä", 1.5, None, {"b": True}]}, "it")) == {"a": ["ä", 1.5, None, {"b": True}]}
    wide: Any = [1]
    for _ in range(30):
        wide = [wide, wide]  # not deep, but two to the 30th values
    for odd in (wide, "\ud800", {"\udfff": 1}, float("nan"), [float("inf")], {1, 2}, object(), b"x"):
        with pytest.raises(BadInput, match=r"^it "):
            checked_json(odd, "it")


def test_a_log_is_no_way_to_a_terminal() -> None:
    record = logging.LogRecord("luna_dt", logging.WARNING, "", 0, "DT says %s", (EVIL,), None)
    assert not set(PlainLines().format(record)) & OBEYED
    assert not set(plain(f"[bold]{EVIL}")) & OBEYED


@pytest.mark.parametrize(
    "prompt", [EVERY, EVIL, "<b>&\"'", "half \ud83d", "x" * 100_000, "\n" * 1000, "]]>", "&#0;"], ids=[*"abcdefgh"]
)
def test_lineage_is_drawn_whatever_a_prompt_holds(prompt: str) -> None:
    made = Node(None, Generation(prompt=prompt, output=f"{prompt[:300]}.png"), ())
    tree = Node(ImageRecord(1, prompt, prompt), None, (made,))
    drawing = ElementTree.fromstring(as_svg(tree, lambda _: None))
    assert len([each for each in drawing.iter() if each.tag.endswith("title")]) == 2
    assert as_png(tree, lambda _: None).width > 0
    assert contact_sheet(Image.new("RGB", (9, 9)), prompt, [(None, prompt, prompt)]).width > 0


@pytest.mark.parametrize(
    "command", [["search", "--id", "1"], ["search", "--id", "1", "--json"], ["duplicates"], ["duplicates", "--json"],
                ["lineage", "1"], ["outbox", "list"], ["outbox", "export"], ["outbox", "list", "--json"]]
)  # fmt: skip
@pytest.mark.processes
def test_no_command_passes_on_what_a_terminal_obeys(library: Library, command: list[str]) -> None:
    vectors = unit_vectors(3)
    vectors[1] = vectors[0]
    fill(library, vectors)
    evil = EVIL.replace("\x00", "")  # which no row of a database holds
    batch = image_batch(np.arange(1, 4))
    odd = [ImageRecord(record.id, f"/{evil}/{record.id}.png", evil) for record in batch.rows if isinstance(record, ImageRecord)]  # fmt: skip
    mirror(library, "images", type(batch)(batch.ids, batch.digests + 1, odd))
    library.record({"prompt": evil, "output": evil, "source_image_id": 1})
    home = library.settings.home
    library.close()
    done = subprocess.run(
        [sys.executable, "-m", "luna_dt", "--home", str(home), *command],
        capture_output=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DT_API_URL": "http://127.0.0.1:9", "COLUMNS": "300"},
    )
    assert b"gnp.x" in done.stdout, done.stderr.decode()
    assert not set((done.stdout + done.stderr).decode()) & OBEYED
