"""ComfyUI's graph (a workflow in its API format), as far as it says how a picture was made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from . import Lora, Made
from . import node_classes as known
from .walk import MOST_TEXT, NOTHING, Node, Nodes, Output, as_text, link_of, scalar

MOST_STEPS = 10_000
MOST_PICTURES = 20_000  # nodes that a picture passes through
MOST_SAMPLERS = 64  # samplers in a row
MOST_PARTS = 64  # texts of one prompt
MOST_SAVERS = 32  # nodes of a graph that save pictures
MOST_MAKERS = 4  # samplers that one picture may come from


class _Words(NamedTuple):
    """What conditioning says: its texts (None: not to be known), and Flux's guidance."""

    texts: tuple[str, ...] | None
    guidance: float | None = None


class _Model(NamedTuple):
    name: str | None
    loras: tuple[Lora, ...] | None


class _Makers(NamedTuple):
    """The samplers that a picture may come from; ``lost``: or others, out of sight."""

    nodes: frozenset[str] = frozenset()
    lost: bool = False


LOST = _Makers(lost=True)
SAVERS = re.compile("save|VideoCombine|LunaDTMetadataWriter", re.IGNORECASE)


def read(graph: Any, node: Any) -> Made:
    """What a graph shows of how a node's picture was made; any graph may be asked, whatever its shape.

    Of several samplers in a row the first counts, which began with noise alone or with a picture from elsewhere:
    not the refiner, not the second pass, not what mends faces.  Where a picture comes from several, only that is
    told in which they agree.
    """
    nodes = _Graph(graph)
    makers = nodes.makers(Output(str(node), 0))
    if makers.lost or not 0 < len(makers.nodes) <= MOST_MAKERS:
        return Made()
    return _agreed([nodes.made_by(name) for name in sorted(makers.nodes)])


def saved(graph: Any) -> Made:
    """What a graph shows of a picture that it saved: of several nodes that save, that in which they agree.

    Where none does, it is a preview that was kept, or what saves goes by another name: then it is where pictures end.
    """
    nodes = Nodes(graph)
    savers, ends, goes_on = list[str](), list[str](), set[str]()
    for name in graph if isinstance(graph, Mapping) else ():
        if node := nodes.node(name):
            goes_on |= {link.node for link in node.links().values()}
            if node.link("images", "image"):
                (savers if SAVERS.search(node.kind) else ends).append(name)
    found = savers or [name for name in ends if str(name) not in goes_on]
    return _agreed([read(graph, name) for name in found]) if 0 < len(found) <= MOST_SAVERS else Made()


def _agreed(told: Sequence[Made]) -> Made:
    same = {
        field.name: getattr(told[0], field.name)
        for field in fields(Made)
        if all(getattr(each, field.name) == getattr(told[0], field.name) for each in told)
    }
    return Made(**same)


def linked(graph: Any, node: Any) -> set[str]:
    """The inputs of a node that another node sets."""
    found = Nodes(graph).node(str(node))
    return set(found.links()) if found else set()


class _Graph(Nodes):
    # -- what came from where -------------------------------------------------------------------------

    def makers(self, start: Output) -> _Makers:
        """The samplers that a picture comes from."""

        def whole(node: Node, output: Output, made_of: list[_Makers]) -> _Makers:
            nodes = frozenset(name for each in made_of for name in each.nodes)
            before = _Makers(nodes, any(each.lost for each in made_of))
            if not _is_sampler(node):
                return before if len(before.nodes) <= MOST_MAKERS else LOST
            itself = _Makers(frozenset([output.node]))
            whole_picture = self._makes_all(node)
            if whole_picture or not (before.nodes or before.lost):
                return itself
            return before if whole_picture is False else _Makers(before.nodes | itself.nodes, before.lost)

        samplers = iter(range(MOST_SAMPLERS))

        def parts(node: Node, _: int) -> Sequence[Output | None]:
            if not _is_sampler(node):
                return _pictures(node)
            if next(samplers, None) is None:
                return [None]
            return [] if self._makes_all(node) else self._before(node)

        return self.fold(start, parts, whole, LOST, MOST_PICTURES)

    def _before(self, sampler: Node) -> list[Output | None]:
        """The picture that a sampler began with."""
        latent = self._earlier_stage(sampler) or sampler.link(*LATENTS)
        return [latent] if latent else []

    def _earlier_stage(self, sampler: Node) -> Output | None:
        conditioning = self.at(sampler.link("positive"))
        return conditioning.link(known.STAGES.get(conditioning.kind, "")) if conditioning else None

    def _makes_all(self, sampler: Node) -> bool | None:
        """Whether a sampler makes the whole picture of noise; False: it goes on with another, None: unknown."""
        noise, denoise = self._noise(sampler), self._denoise(sampler)
        if noise is False or (denoise is not None and denoise < 1) or self._goes_on(sampler):
            return False
        if self._earlier_stage(sampler):
            return False
        return True if noise and denoise == 1 and not self._is_masked(sampler) else None

    def _is_masked(self, sampler: Node) -> bool:
        """Whether a mask comes with the latent, so that a sampler makes a part of the picture only."""
        latent = self.at(sampler.link(*LATENTS))
        for _ in range(MOST_SAMPLERS):
            if latent is None or _is_sampler(latent):
                break
            if any("mask" in name.lower() for name in latent.links()):
                return True
            latent = self.at(latent.link(*LATENTS))
        return False

    def _goes_on(self, sampler: Node) -> bool:
        """Whether a sampler begins in the middle of its schedule."""
        return bool(self.whole(sampler, "start_at_step", most=MOST_STEPS)) or self.source(sampler, "sigmas")[1]

    def _noise(self, sampler: Node) -> bool | None:
        """Whether a sampler adds noise, which its seed makes."""
        if "noise" in sampler.inputs:
            noise, _ = self.source(sampler, "noise")
            return None if noise is None else noise.kind != "DisableNoise"
        if "add_noise" not in sampler.inputs:
            return True
        told = self.value(sampler, "add_noise")
        return True if told in ("enable", True) else False if told in ("disable", False) else None

    def _denoise(self, sampler: Node) -> float | None:
        if "start_at_step" in sampler.inputs:
            start = self.whole(sampler, "start_at_step", most=MOST_STEPS)
            return 1.0 if start == 0 and self._noise(sampler) else None
        if "sigmas" not in sampler.inputs:
            return self.number(sampler, "denoise", 1)
        sigmas, second = self.source(sampler, "sigmas")
        return None if sigmas is None or second else self.number(sigmas, "denoise", 1)

    def made_by(self, name: str) -> Made:
        """What one sampler was told."""
        sampler = self.node(name) or NOTHING

        def place(part: str) -> Node:
            """The node that holds those settings: another, or the sampler itself."""
            return (self.source(sampler, part)[0] or NOTHING) if part in sampler.inputs else sampler

        guider, sigmas, method, noise = (place(part) for part in ("guider", "sigmas", "sampler", "noise"))
        positive = self._words(guider.link("positive", "conditioning", "cond1"), "positive")
        negative = self._words(guider.link("negative"), "negative")
        if guider.link(NAG):  # a second one, which counts where the first does not
            texts = _distinct([negative.texts, self._words(guider.link(NAG), "negative").texts])
            negative = _Words(texts, negative.guidance)
        if guider.kind == "BasicGuider":  # which has no place for one
            negative = _Words(())
        model = self._model(guider.link("model"))
        named = known.NAMED_SAMPLERS.get(method.kind)
        if named and self.value(method, "noise_device") == "gpu":
            named += "_gpu"
        latent = self.at(sampler.link(*LATENTS)) or NOTHING
        begun = latent.kind.startswith("Empty") or "empty_latent_width" in latent.inputs
        empty = latent if begun and not any(OTHER_SIZE.search(str(name)) for name in latent.inputs) else NOTHING
        return Made(
            prompt=_joined(positive.texts),
            negative=_joined(negative.texts),
            seed=None if self._noise(sampler) is False else self.whole(noise, "seed", "noise_seed", most=2**64 - 1),
            steps=self.whole(sigmas, "steps", most=MOST_STEPS) or None,
            cfg=self.number(guider, "cfg", 1e6),
            denoise=self._denoise(sampler),
            sampler=named or self.text(method, "sampler_name"),
            scheduler=known.NAMED_SCHEDULERS.get(sigmas.kind) or self.text(sigmas, "scheduler"),
            model=model.name,
            loras=None if self._hooked() else model.loras,
            guidance=positive.guidance,
            width=self.whole(empty, "width", "empty_latent_width", most=2**31) or None,
            height=self.whole(empty, "height", "empty_latent_height", most=2**31) or None,
        )

    # -- conditioning and models ----------------------------------------------------------------------

    def _words(self, start: Output | None, role: str) -> _Words:
        """What conditioning says; ``role``, positive or negative, tells which way to go in a node that is not known."""

        def parts(node: Node, slot: int) -> Sequence[Output | None]:
            if node.kind in known.TEXTS or node.kind in known.ZEROED or (node.kind, slot) in known.TEXTS_AT:
                return []
            if node.kind == "ConditioningAverage":
                share = self.number(node, "conditioning_to_strength", 1)
                names = [f"conditioning_{end}" for end, gone in (("to", 0), ("from", 1)) if share != gone]
            elif node.kind in known.CONDITIONING:
                ways = known.CONDITIONING[node.kind]
                names = list(ways[min(max(slot, 0), len(ways) - 1)])
            elif any(_is_wordy(name, said) for name, said in node.inputs.items()):
                return [None]
            else:
                names = [role if role in node.links() else "conditioning"]
                if any(OTHER_WORDS.fullmatch(name) for name in node.links()):
                    return [None]
            return [node.link(name) for name in names]

        def whole(node: Node, output: Output, made_of: list[_Words]) -> _Words:
            if node.kind in known.ZEROED:
                return _Words(())
            if said := known.TEXTS_AT.get((node.kind, output.slot)):
                text = self.text(node, said)
                return _Words(None if known.is_filled_in(node.kind, text) else _distinct([[text]]))
            if node.kind in known.TEXTS:
                texts = [self.text(node, name) for name in known.TEXTS[node.kind] if name in node.inputs]
                return _Words(_distinct([texts or None]), self.number(node, "guidance", 1e6))
            told = {each.guidance for each in made_of}
            guidance = told.pop() if len(told) == 1 else None
            if node.kind == "FluxGuidance":
                guidance = self.number(node, "guidance", 1e6)
            elif node.kind == "FluxDisableGuidance":
                guidance = None
            return _Words(_distinct([each.texts for each in made_of]), guidance)

        return self.fold(start, parts, whole, _Words(None))

    def _model(self, start: Output | None) -> _Model:
        def parts(node: Node, _: int) -> Sequence[Output | None]:
            links = node.links()
            if "model" in links:
                return [links["model"]]
            if any("model" in name for name in links):  # which may take the place of what is loaded
                return [None]
            return [] if any(name in node.inputs for name in known.MODEL_NAMES) else [None]

        def whole(node: Node, _: Output, made_of: list[_Model]) -> _Model:
            loras = self._loras(node)
            if made_of:
                name, before = made_of[0]
            else:
                name = self.text(node, next((name for name in known.MODEL_NAMES if name in node.inputs), ""))
                before = ()
            loras = None if before is None or loras is None else (*before, *loras)
            return _Model(name, loras if loras is None or len(loras) <= MOST_PARTS else None)

        return self.fold(start, parts, whole, _Model(None, None))

    def _hooked(self) -> bool:
        """Whether LoRAs may be applied where the graph's conditioning says, not by its model."""
        return any(known.HOOKED_LORAS.fullmatch(node.kind) for node in self.nodes())

    def _loras(self, node: Node) -> tuple[Lora, ...] | None:
        """The LoRAs that a node applies; None where they cannot be known."""
        if node.kind in known.LORA_TEXTS:
            text = self.text(node, known.LORA_TEXTS[node.kind])
            return None if text is None else tuple((name, _strength(said)) for name, said in LORA_TAG.findall(text))
        if node.kind in known.FILLED_IN and any(LORA_TAG.search(str(said)) for said in node.inputs.values()):
            return None
        found: list[Lora] = []
        silent = known.LORAS_OF_A_KIND.search(node.kind) is not None  # none are named, though there are some
        for name, said in node.inputs.items():
            if not isinstance(name, str) or "lora" not in name.lower() or name in known.CLIP_STRENGTHS:
                continue
            if name in known.LORA_STRENGTHS:
                silent = silent or "lora_name" not in node.inputs
                continue
            if said in ("", None) or isinstance(said, (int, float)):
                continue
            if name.startswith("PowerLoraLoader"):
                silent = False
                continue
            applied = self._applied(node, name, said)
            if applied is None:
                return None
            silent = False
            found += applied
        return None if silent and not found else tuple(found)

    def _applied(self, node: Node, name: str, said: Any) -> list[Lora] | None:
        """The LoRAs that one of a node's inputs names, none where it is switched off; None: not to be known."""
        if isinstance(said, Mapping) and "lora" in said:  # rgthree's power loader
            file, strength, on = as_text(scalar(said["lora"])), scalar(said.get("strength")), said.get("on", True)
            clip = said.get("strengthTwo")
        elif name == "lora_name" or re.fullmatch("lora_[0-9]+", name):
            file, on = self.text(node, name), True
            if "switch" in node.inputs:
                on = {"On": True, "Off": False}.get(str(self.value(node, "switch")))
            suffixed = (f"strength_{name[5:]}",) if name != "lora_name" else known.LORA_STRENGTHS
            strength = self.value(node, next((each for each in suffixed if each in node.inputs), ""))
            beside = next((each for each in known.CLIP_STRENGTHS if each in node.inputs), "")
            clip = self.value(node, beside) if beside else 0
        elif name == "loras" and node.kind.endswith("(LoraManager)"):
            listed = said.get("__value__") if isinstance(said, Mapping) else said
            if not isinstance(listed, list) or len(listed) > MOST_PARTS or link_of(listed):
                return None
            active = [each for each in listed if isinstance(each, Mapping) and each.get("active", True)]
            pairs = [(as_text(scalar(each.get("name"))), _strength(each.get("strength"))) for each in active]
            return [(file, strength) for file, strength in pairs if file] if all(file for file, _ in pairs) else None
        else:
            return None
        if file is None or on is None:
            return None
        strength = float(strength) if isinstance(strength, (int, float)) else None
        return [(file, strength)] if on and file != "None" and (strength != 0 or clip) else []


# -- one node -----------------------------------------------------------------------------------------

LORA_TAG = re.compile("<lora:([^:<>]+):?([^:<>]*)[^<>]*>")
NAG = "nag_negative"
#: Inputs of nodes that are not known by which more conditioning may come in.
OTHER_WORDS = re.compile("(cond|conditioning|positive|negative)_.+", re.IGNORECASE)
#: Inputs of a node by which a picture may get another size than that of its width and height.
OTHER_SIZE = re.compile("resolution|aspect|ratio|preset|scale|swap|flip", re.IGNORECASE)
LATENTS = ("latent_image", "latent", "samples", "latents")
PICTURE = re.compile(r"(input_)?(images?|pixels|samples|latents?|latent_images?)(_?\d+|_[a-z])?", re.IGNORECASE)


def _is_sampler(node: Node) -> bool:
    if node.kind in known.SAMPLERS:
        return True
    steps = "steps" in node.inputs or "sigmas" in node.inputs
    seeded = any(name in node.inputs for name in ("seed", "noise_seed", "noise"))
    return steps and seeded and node.link(*LATENTS) is not None


def _pictures(node: Node) -> list[Output | None]:
    """The inputs that the picture of a node is made of."""
    links = node.links()
    if {"prompt", "seed"} <= node.inputs.keys():  # a service that makes pictures, of whatever it is shown
        return [None]
    if node.kind in known.PICTURES:
        return [links[name] for name in known.PICTURES[node.kind] if name in links]
    if found := [link for name, link in links.items() if PICTURE.fullmatch(name)]:
        return list(found)
    others = [link for name, link in links.items() if not name.lower().startswith(known.NO_PICTURE)]
    return list(others) if len(others) < 2 else [None]


def _strength(said: Any) -> float | None:
    try:
        found = float(said)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _is_wordy(name: Any, said: Any) -> bool:
    """Whether an input may add words of its own."""
    wordy = isinstance(name, str) and ("text" in name.lower() or "prompt" in name.lower())
    return wordy and (isinstance(said, str) or link_of(said) is not None)


def _distinct(parts: Sequence[Sequence[str | None] | None]) -> tuple[str, ...] | None:
    """Several texts as one list, each once, blank ones left out; None where one is unknown."""
    found: dict[str, str] = {}
    for texts in parts:
        if texts is None:
            return None
        for text in texts:
            if text is None:
                return None
            if text.strip():
                found.setdefault(text.strip(), text)
    too_much = len(found) > MOST_PARTS or sum(map(len, found)) > MOST_TEXT
    return None if too_much or not parts else tuple(found.values())


def _joined(texts: tuple[str, ...] | None) -> str | None:
    return None if texts is None else "\n".join(texts)
