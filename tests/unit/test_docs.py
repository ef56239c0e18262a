"""The documents name what there is: every command with its options, every setting."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from luna_dt import Library
from luna_dt.cli import main
from luna_dt.errors import LunaError
from luna_dt.query.words import REFUSED, SPELLINGS
from luna_dt.settings import ENVIRONMENT, Settings
from luna_dt.store.formats import format_of
from tools import write_docs

ROOT = Path(__file__).parents[2]
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *ROOT.glob("docs/*.md")]
}
DOCUMENTS = "\n".join(text for path, text in PAGES.items() if path.name not in ("CONTRIBUTING.md", "CHANGELOG.md"))
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


def errors(kind: type[LunaError] = LunaError) -> Iterator[type[LunaError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from errors(each)


def test_each_code_of_an_error_has_its_row_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    codes = {each.code for each in errors() if each.__module__ == "luna_dt.errors"}
    assert sorted(rows) == sorted(codes)


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Each ``luna-dt …`` in a block of shell, by the page it is on, as a shell takes it apart."""
    for path, text in PAGES.items():
        for block in re.findall(r"^```(?:sh|bat)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for found in re.findall(r"(?:^|[\s/\\])luna-dt (.*)|custom_nodes\\luna_dt (.*)", block):
                yield path.name, shlex.split("".join(found), comments=True)


@pytest.mark.parametrize(("page", "words"), list(shown_commands()))
def test_a_command_that_is_shown_is_one(page: str, words: list[str]) -> None:
    command: click.Command = main
    while isinstance(command, click.Group) and words != ["--version"]:
        _, words, _ = command.make_parser(click.Context(command)).parse_args(words)
        assert words[0] in command.commands, page
        command, words = command.commands[words[0]], words[1:]
    command.make_context("luna-dt", words, resilient_parsing=command is main)


def test_options_that_are_named_with_a_command_are_its_own() -> None:
    for path, text in PAGES.items():
        for name, rest in re.findall(r"`(luna-dt(?: [a-z]+)+)((?: [^`\n]*)?)`", text):
            known = [each for each in COMMANDS if f"{name} ".startswith(f"{each} ") or each.startswith(f"{name} ")]
            assert known, f"{path.name}: there is no {name}"
            options = {each for one in known for each in long_options(COMMANDS[one])}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"{path.name}: {name}{rest}"


def anchors(text: str) -> set[str]:
    """The names under which a page's headings are linked to, as the forge makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", list(PAGES), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", PAGES[page]):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{target} has no #{anchor}"


def test_the_readme_leads_to_every_page_and_example() -> None:
    readme = PAGES[ROOT / "README.md"]
    there = {f"{file.parent.name}/{file.name}" for each in ("docs/*.md", "examples/*.py") for file in ROOT.glob(each)}
    assert {file for file in there if f"]({file}" not in readme} == set()


def test_the_contract_names_every_route_parameter_and_problem() -> None:
    pytest.importorskip("fastapi")
    from luna_dt.dt.folder import FolderCatalog
    from luna_dt.server.app import create_app

    contract = (ROOT / "docs/rest.md").read_text(encoding="utf-8")
    described = create_app(FolderCatalog.__new__(FolderCatalog)).openapi()  # nothing is asked of it
    rows = dict(re.findall(r"^\| `([A-Z]+ /[^`?]*)(?:\?[^`]*)?` \| *(.*)\|$", contract, re.MULTILINE))
    routes = {
        re.sub(r"\{(?:\w+_)?(\w+)\}", r"{\1}", f"{method.upper()} {path}"): call
        for path, calls in described["paths"].items()
        for method, call in calls.items()
    }
    documented = {each.replace("{type}", "{kind}") for each in rows}
    assert documented == set(routes)
    for call in routes.values():
        for each in call.get("parameters", []):
            assert each["in"] == "path" or re.search(rf"\b{each['name']}\b", contract, re.IGNORECASE), each["name"]
    for schema in described["components"]["schemas"].values():
        assert {name for name in schema.get("properties", {}) if not re.search(rf"\b{name}\b", contract)} == set()
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "luna_dt/server").glob("*.py"))
    codes = set(re.findall(r'problem\(\d+, "(\w+)"', sources))
    assert {code for code in codes if f"`{code}`" not in contract} == set()


def test_the_storage_format_names_every_table_and_column(library: Library) -> None:
    told = (ROOT / "docs/storage.md").read_text(encoding="utf-8")
    tables = {
        name: re.findall(r"`(\w+)`", columns)
        for name, columns in re.findall(r"^\| `(\w+)` \| (.*?) \|", told, re.MULTILINE)
    }
    with contextlib.closing(sqlite3.connect(library.settings.home / "library.db")) as database:
        assert f"format {format_of(database)}:" in told
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        there = {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for (name,) in names}
    assert tables == there


def test_the_nodes_page_keeps_the_contract_and_names_errors_that_there_are() -> None:
    """That it has every input and output of the nodes as they are is held where these are loaded."""
    rows = {
        f"Luna DT {name}": [set(re.findall(r"`(\w+)`", cell)) for cell in cells.split(" | ")]
        for name, cells in re.findall(r"^\| \*\*(.*?)\*\* \| (.*) \|$", PAGES[ROOT / "docs/nodes.md"], re.MULTILINE)
    }
    for node in json.loads((ROOT / "tests/nodes_contract.json").read_text(encoding="utf-8")).values():
        inputs, outputs, _ = rows[node["display_name"]]
        assert {name for part in node["inputs"].values() for name in part} <= inputs
        assert set(node["return_names"]) <= outputs
    assert {code for *_, stops in rows.values() for code in stops} <= {each.code for each in errors()}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 tells of aliases of types otherwise")
def test_the_page_of_calls_is_what_the_docstrings_say() -> None:
    assert PAGES[write_docs.TARGET] == write_docs.page(), "run: python -m tools.write_docs"
