"""What came from what: the tree of an image's generations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..generation import Generation
from ..records import ImageRecord

if TYPE_CHECKING:
    pass

DEPTH = 500  # generations in a row that are drawn


@dataclass(frozen=True)
class Node:
    """An image of DT (``image``), or a generation that DT has not scanned, or both; and what came from it."""

    image: ImageRecord | None
    made: Generation | None
    children: tuple[Node, ...]
    asked: bool = False

    @property
    def title(self) -> str:
        how = f"{self.made.operation}: " if self.made else ""
        if self.image:
            return f"{how}image {self.image.id}"
        return f"{how}{self.made.output or 'not saved'}" if self.made else "an image that DT does not have"

    @property
    def prompt(self) -> str:
        return self.made.prompt if self.made and self.made.prompt else self.image.prompt if self.image else ""


def tree(
    image_id: int,
    generations: Sequence[Generation],
    image: Callable[[int], ImageRecord | None],
    at_path: Callable[[str], ImageRecord | None],
) -> Node:
    """The tree that image belongs to, from the first image known.

    ``image`` finds an image of DT by its id, ``at_path`` the one that lies at a path, by which a generation's
    output is found again; ``base`` links a generation to the one it was made from.
    """
    by_key = {made.key: made for made in generations if made.key}
    result = {made.key: at_path(made.output) if made.output else None for made in generations}
    made_it = {found.id: by_key[key] for key, found in result.items() if found}

    def parent(of: int | str) -> int | str | None:
        made = made_it.get(of) if isinstance(of, int) else by_key.get(of)
        if made is None:
            return None
        base = by_key.get(made.base) if made.base else None
        if base is not None:
            found = result[base.key]
            return found.id if found else base.key
        return made.source_image_id

    root: int | str = image_id
    seen = {root}
    while (above := parent(root)) is not None and above not in seen:
        root = above
        seen.add(root)

    below: dict[int | str, dict[int | str, None]] = {}  # as an ordered set: two records of one picture are one child
    for key in by_key:
        there = result[key]
        name: int | str = there.id if there else key
        above = parent(name)
        if above is not None and above != name:
            below.setdefault(above, {})[name] = None
    drawn = {root}

    def grown(of: int | str, depth: int) -> Node:
        if isinstance(of, int):
            found, made = image(of), made_it.get(of)
        else:
            found, made = result[of], by_key[of]
        children = []
        for name in below.get(of, ()):
            if name not in drawn and depth < DEPTH:
                drawn.add(name)
                children.append(grown(name, depth + 1))
        return Node(found, made, tuple(children), asked=of == image_id)

    return grown(root, 0)


def walk(node: Node, depth: int = 0) -> Iterator[tuple[int, Node]]:
    """Every node with its depth, parents before their children."""
    yield depth, node
    for child in node.children:
        yield from walk(child, depth + 1)


def as_text(node: Node) -> str:
    """One line a node, drawn as a tree."""

    def lines(node: Node, first: str, rest: str) -> Iterator[str]:
        mark = "  <-" if node.asked else ""
        prompt = " ".join(node.prompt.split())
        yield f"{first}{node.title}  {prompt[:60]}{'…' if len(prompt) > 60 else ''}{mark}"
        for i, child in enumerate(node.children):
            last = i == len(node.children) - 1
            yield from lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    return "\n".join(lines(node, "", ""))
