"""The documents name what there is: every command with its options, every setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from luna_dt.cli import main
from luna_dt.query.words import REFUSED, SPELLINGS
from luna_dt.settings import ENVIRONMENT, Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
LIST = (ROOT / "docs/command.md").read_text(encoding="utf-8")


def commands(command: click.Command, name: str = "luna-dt") -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for each, inner in command.commands.items():
            yield from commands(inner, f"{name} {each}")
    else:
        yield name, command


def long_options(command: click.Command) -> set[str]:
    return {each for one in command.params for each in (*one.opts, *one.secondary_opts) if each.startswith("--")}


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_names_every_option(name: str) -> None:
    options = re.findall(rf"^\| `{name}` \| (.*?) \|", LIST, re.MULTILINE)
    assert len(options) == 1, f"docs/command.md has no row for {name}"
    assert set(re.findall(r"--[a-z-]+", options[0])) == long_options(COMMANDS[name])


def test_no_command_is_listed_that_is_none() -> None:
    assert set(re.findall(r"^\| `(luna-dt[a-z -]*)`", LIST, re.MULTILINE)) == set(COMMANDS)
    assert all(f"`{option}" in LIST for option in long_options(main))


def test_every_setting_is_in_the_documents() -> None:
    for name, variable in {**ENVIRONMENT, "home": "LUNA_DT_HOME"}.items():
        assert f"`{variable}" in DOCUMENTS, f"{variable} is not in the documents"
        assert name in Settings.__dataclass_fields__


def test_the_query_languages_table_is_the_language() -> None:
    text = (ROOT / "docs/query.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+):` \|(.*?)\|", text, re.MULTILINE)
    assert {token: (token, *re.findall(r"`([\w ]+):`", also)) for token, also in rows} == SPELLINGS
    assert set(re.findall(r"`([\w ]+):`", text.split("unless `delete:`")[1].split("are DT's")[0])) >= set(REFUSED)


def test_what_security_says_was_tried_is_a_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8")))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_what_was_tried_names_tests_that_there_are() -> None:
    told = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    there = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    named = re.findall(r"`(test_\w+)`", told)
    assert len(named) > 30
    assert [name for name in named if not re.search(rf"def {name}\(", there)] == []
    for row in re.findall(r"^\| .*", told.partition("## The server")[2].partition("## Ways out")[0], re.MULTILINE):
        assert re.search(r"`test_\w+`|the same|tried in|---", row), f"docs/security.md names no test for: {row}"
    assert [path for path in re.findall(r"`(tests/\S+\.py)`", told) if not (ROOT / path).is_file()] == []
