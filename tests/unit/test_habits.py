"""Tests, benches and tools use what anyone may use: none reaches into what is private."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
USERS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("tests", "bench", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)  # whose examples are what it looks for
}
#: Public in spite of their names, as Python's own documentation has them.
DOCUMENTED = {"_replace", "_current_frames", "_exit"}


def is_private(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*", name) is not None and name not in DOCUMENTED


def reached(tree: ast.AST) -> Iterator[str]:
    """What code takes that is another's own: as an attribute, by an import, or by a name that is set or asked for."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Attribute):
            if is_private(each.attr) and ast.unparse(each.value) not in ("self", "cls"):
                yield ast.unparse(each)
        elif isinstance(each, ast.ImportFrom):
            yield from (alias.name for alias in each.names if is_private(alias.name))
        elif isinstance(each, ast.Call) and re.fullmatch(r"(.*\.)?(get|set|has|del)attr", ast.unparse(each.func)):
            strings = [given.value for given in each.args[:2] if isinstance(given, ast.Constant)]
            yield from (name for name in strings if isinstance(name, str) and is_private(name.rpartition(".")[2]))
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and "import " in each.value:
            try:  # the code of a program that a test starts
                program = ast.parse(each.value)
            except SyntaxError:
                continue
            yield from reached(program)


def test_nothing_private_is_reached_into() -> None:
    found = {path: sorted(set(reached(ast.parse(source)))) for path, source in USERS.items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_library_is_opened_up() -> None:
    """By the text alone, so that no string or comment is left out."""
    assert [path for path, source in USERS.items() if re.search(r"\blibrary\._", source)] == []


def test_what_reaches_is_seen() -> None:
    for code in (
        "library._store",
        "a.b()._kept",
        "from luna_dt.hub import _reach",
        "monkeypatch.setattr(module, '_asked', 0)",
        "monkeypatch.setattr('luna_dt.hub._asked', 0)",
        "PROGRAM = 'import luna_dt\\nluna_dt.Library()._store'",
    ):
        assert list(reached(ast.parse(code))), code
    for code in ("self._store", "address._replace(a=1)", "a.__class__", "_own()", "PROSE = 'import a._b of it'"):
        assert not list(reached(ast.parse(code))), code
