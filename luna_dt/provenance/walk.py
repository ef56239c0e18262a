"""A ComfyUI graph's nodes and links, and how they are walked: within bounds, whatever shape they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from . import node_classes as known

T = TypeVar("T")

MOST_NODES = 1_000  # walked through for one setting; more is not to be known
MOST_TEXT = 100_000  # characters of one text
MOST_CHOOSERS = 20  # nodes that what sets a switch comes through


class Output(NamedTuple):
    """An output of a node, which is what a link names."""

    node: str
    slot: int


class Node(NamedTuple):
    kind: str
    inputs: Mapping[str, Any]

    def links(self) -> dict[str, Output]:
        found = {name: link_of(value) for name, value in self.inputs.items() if isinstance(name, str)}
        return {name: link for name, link in found.items() if link}

    def link(self, *names: str) -> Output | None:
        """The first of those inputs that is linked."""
        return next((link for name in names if (link := link_of(self.inputs.get(name)))), None)


class Nodes:
    """The nodes of a graph by their names."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph if isinstance(graph, Mapping) else {}

    def nodes(self) -> Iterator[Node]:
        return (node for name in self._graph if (node := self.node(name)))

    def node(self, name: str) -> Node | None:
        found = self._graph.get(name)
        if not isinstance(found, Mapping):
            return None
        kind, inputs = found.get("class_type"), found.get("inputs")
        return Node(kind, inputs) if isinstance(kind, str) and isinstance(inputs, Mapping) else None

    # -- walking --------------------------------------------------------------------------------------

    def fold(
        self,
        start: Output | None,
        parts: Callable[[Node, int], Sequence[Output | None]],
        whole: Callable[[Node, Output, list[T]], T],
        lost: T,
        most: int = MOST_NODES,
    ) -> T:
        """Works an output out from what it is made of, each output once; ``lost`` stands for what is missing, turns in
        a circle, or is too much."""
        if start is None:
            return lost
        done: dict[Output, T] = {}
        under_way: dict[Output, Sequence[Output | None]] = {}
        ahead = [start]
        while ahead:
            output = ahead[-1]
            node = self.node(output.node)
            if node is None or output in done:
                ahead.pop()
                continue
            passed = self._through(node, output.slot)
            if output in under_way:
                made_of = [lost if part is None else done.get(part, lost) for part in under_way.pop(output)]
                done[output] = made_of[0] if passed else whole(node, output, made_of)
                ahead.pop()
            elif len(done) + len(under_way) >= most:
                return lost
            else:
                under_way[output] = found = [passed] if passed else parts(node, output.slot)
                ahead += [part for part in reversed(found) if part and part not in done and part not in under_way]
        return done.get(start, lost)

    def at(self, link: Output | None) -> Node | None:
        """The node that a link comes from, whatever only passes it on."""
        for _ in range(MOST_NODES):
            found = self.node(link.node) if link else None
            link = self._through(found, link.slot) if found and link else None
            if link is None:
                return found
        return None

    def source(self, node: Node, name: str) -> tuple[Node | None, bool]:
        """The node that an input comes from, through those that pass an input of that name on; and whether it is the
        second part of a schedule that was split."""
        second = False
        seen: set[Output] = set()
        output = node.link(name)
        while output and output not in seen and len(seen) < MOST_NODES:
            seen.add(output)
            found = self.node(output.node)
            if found is None:
                return None, second
            second = second or (found.kind in known.SPLITS and output.slot == 1)
            if found.kind in known.BENT:
                return None, second
            output = self._through(found, output.slot) or found.link(name)
            if output is None:
                return found, second
        return None, second

    def _through(self, node: Node, slot: int) -> Output | None:
        """The input that an output of a node only passes on: a reroute, a switch that is set, a bundle's part."""
        links = node.links()
        if "Reroute" in node.kind and len(links) == 1:
            return next(iter(links.values()))
        if node.kind in known.BUNDLES:
            part = known.BUNDLE[slot] if 0 < slot < len(known.BUNDLE) else ""
            return links.get(part) or _same_part(links.get("base_ctx"), slot)
        if node.kind in known.FIRSTS:
            first = next((links[name] for name in sorted(links) if name.startswith(("any_", "ctx_"))), None)
            return _same_part(first, slot) if node.kind in known.BUNDLE_SWITCHES else first
        return links.get(self._chosen(node))

    def _chosen(self, node: Node) -> str:
        """The input that a switch is set to; "" where it is none, or it cannot be known how it is set."""
        chooser, chosen = known.SWITCHES.get(node.kind, ("", ""))
        set_to = node.inputs.get(chooser)
        for _ in range(MOST_CHOOSERS):  # from where a value may come that other switches are set by, too
            link = link_of(set_to)
            if link is None:
                break
            found = self.node(link.node) or NOTHING
            name = known.VALUES.get(found.kind, "") if link.slot == 0 else ""
            set_to = next(iter(found.links().values()), None) if "Reroute" in found.kind else found.inputs.get(name)
        return chosen.format(str(set_to).lower()) if isinstance(set_to, int) else ""

    # -- words and numbers ----------------------------------------------------------------------------

    def value(self, node: Node, name: str) -> str | int | float | None:
        linked = node.link(name)
        if linked is None:
            return scalar(node.inputs.get(name))
        return self.fold(linked, self._value_parts, self._value, None)

    def text(self, node: Node, name: str) -> str | None:
        return as_text(self.value(node, name))

    def whole(self, node: Node, *names: str, most: int) -> int | None:
        """The first of those inputs that there is, as a whole number."""
        name = next((name for name in names if name in node.inputs), "")
        found = self.value(node, name)
        if isinstance(found, (str, bool)) or found is None or not 0 <= found <= most or int(found) != found:
            return None
        return int(found)

    def number(self, node: Node, name: str, most: float) -> float | None:
        found = self.value(node, name)
        if isinstance(found, (str, bool)) or found is None or not 0 <= found <= most:
            return None
        return float(found)

    def _value_names(self, node: Node, slot: int) -> Sequence[str]:
        if (node.kind, slot) in known.VALUES_AT:
            return [known.VALUES_AT[node.kind, slot]]
        if slot == 0 and node.kind in known.VALUES:
            return [known.VALUES[node.kind]]
        if slot == 0 and node.kind in known.FORMED:
            return known.FORMED[node.kind][0]
        return [chosen] if (chosen := self._chosen(node)) else []

    def _value_parts(self, node: Node, slot: int) -> list[Output | None]:
        return [link for name in self._value_names(node, slot) if (link := node.link(name))]

    def _value(self, node: Node, output: Output, made_of: list[str | int | float | None]) -> str | int | float | None:
        linked = iter(made_of)
        names = self._value_names(node, output.slot)
        values = [next(linked) if node.link(name) else scalar(node.inputs.get(name, "")) for name in names]
        if node.kind in known.FORMED:
            texts = [each for each in values if isinstance(each, str)]
            return scalar(known.FORMED[node.kind][1](*texts)) if texts and len(texts) == len(values) else None
        value = values[0] if values else None
        if node.kind in known.OVERRIDING and not str(value or "").strip():
            return None  # then it is DT's own
        return None if known.is_filled_in(node.kind, value) else value


# -- one node -----------------------------------------------------------------------------------------

NOTHING = Node("", {})


def link_of(value: Any) -> Output | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    node, slot = value
    if not isinstance(node, (str, int)) or not isinstance(slot, int) or isinstance(slot, bool):
        return None
    return Output(str(node), slot) if not isinstance(node, int) or abs(node) < 2**63 else None


def scalar(value: Any) -> str | int | float | None:
    """A value that is written out, if it is one that can be used."""
    if isinstance(value, Mapping):  # a choice with its picture, as some packs have them
        value = value.get("content")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
        return value if len(value) <= MOST_TEXT else None
    if isinstance(value, int):
        return value if abs(value) < 2**64 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _same_part(bundle: Output | None, slot: int) -> Output | None:
    return Output(bundle.node, slot) if bundle else None
