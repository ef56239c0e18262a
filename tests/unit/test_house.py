"""What keeps the house easy to walk through: small files and classes, one meaning a name, engines in their room."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("luna_dt", "nodes")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {path: ast.parse(source) for path, source in SOURCES.items()}


def test_no_file_is_long() -> None:
    lines = {path: len(source.splitlines()) for path, source in SOURCES.items()}
    assert {path: count for path, count in lines.items() if count > 450} == {}


def test_no_class_is_long() -> None:
    classes = (
        (path, each) for path, tree in TREES.items() for each in ast.walk(tree) if isinstance(each, ast.ClassDef)
    )
    lines = {f"{path} {each.name}": (each.end_lineno or 0) - each.lineno + 1 for path, each in classes}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module's own capitalised names and their values as written; tables and types are no constants."""
    for line in tree.body:
        if isinstance(line, ast.Assign):
            target, value = line.targets[0], line.value
        elif isinstance(line, ast.AnnAssign) and line.value:
            target, value = line.target, line.value
        else:
            continue
        several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=True) if several else [(target, value)]  # type: ignore[attr-defined]
        for name, given in pairs:
            if isinstance(name, ast.Name) and name.id.isupper() and isinstance(given, (ast.Constant, ast.BinOp)):
                yield name.id, ast.unparse(given)


def test_a_constants_name_has_one_value() -> None:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path, tree in TREES.items():
        for name, value in constants(tree):
            found[name][path] = value
    assert {name: where for name, where in found.items() if len(set(where.values())) > 1} == {}


def names(tree: ast.Module) -> Iterator[str]:
    for each in ast.walk(tree):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.alias):
            yield each.name
        elif isinstance(each, ast.ImportFrom):
            yield each.module or ""
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value.isidentifier():
            yield each.value


def test_no_engine_is_named_outside_its_room() -> None:
    engines = re.compile("hnsw|usearch|faiss", re.IGNORECASE)
    elsewhere = {path: tree for path, tree in TREES.items() if not path.startswith(str(Path("luna_dt/index")))}
    named = {path: sorted({name for name in names(tree) if engines.search(name)}) for path, tree in elsewhere.items()}
    assert {path: found for path, found in named.items() if found} == {}
