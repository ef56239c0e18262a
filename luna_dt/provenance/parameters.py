"""The text that AUTOMATIC1111 writes into a PNG as ``parameters``, which DT's scanner reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from . import Made

NEGATIVE_LINE, SETTINGS_LINE = "Negative prompt:", "Steps:"
NEGATIVE = re.compile(NEGATIVE_LINE, re.IGNORECASE)
#: Lines by which readers, DT's among them, tell the parts apart; in a prompt they would be taken for that.
MARKS = re.compile(r"\s*(negative prompt|steps|parameters):", re.IGNORECASE)
NOTHING = {"", "none", "null", "undefined", "n/a"}  # what some write for what they do not know
LINE_END = re.compile(r"\r\n?|\n")
SIZE = re.compile(r"([1-9]\d{0,8}) ?x ?([1-9]\d{0,8})")
FIRST_SIZE = "First pass size"  # of an older AUTOMATIC1111, whose ``Size`` is that after a second pass


def write(made: Made) -> str | None:
    """That text for something that was made; None where it would say less than is known of it elsewhere, or other.

    Without the prompt, the seed and the steps there is none: readers prefer it to ComfyUI's own data, and DT finds the
    settings by ``Steps:``.  There is none either for a prompt with a line that begins as such a part does, which no
    reader could tell from it, and whatever else ``read`` would not read back the same.  Spaces around a line are left
    out, as readers leave them out.  What is unknown is not named; LoRAs have no place in it.
    """
    if made.prompt is None or made.seed is None or made.steps is None:
        return None
    words = {name: getattr(made, name) or None for name in ("sampler", "scheduler", "model")}
    told = replace(
        made, prompt=_trimmed(made.prompt), negative=_trimmed(made.negative or "") or None, loras=None, **words
    )
    if told.denoise == 1:
        told = replace(told, denoise=None)  # as AUTOMATIC1111 has it for what was made of noise alone
    lines = [*(told.prompt or "").split("\n"), *(told.negative or "").split("\n")]
    if any(MARKS.match(line) for line in lines):
        return None
    size = None if told.width is None or told.height is None else f"{told.width}x{told.height}"
    parts = {
        "Steps": told.steps, "Sampler": told.sampler, "Schedule type": told.scheduler, "CFG scale": _number(told.cfg),
        "Distilled CFG Scale": _number(told.guidance), "Seed": told.seed, "Size": size, "Model": told.model,
        "Denoising strength": _number(told.denoise),
    }  # fmt: skip
    settings = ", ".join(f"{name}: {_quoted(value)}" for name, value in parts.items() if value is not None)
    text = "\n".join(
        [
            *([told.prompt] if told.prompt else []),
            *([f"{NEGATIVE_LINE} {told.negative}"] if told.negative else []),
            settings,
        ]
    )
    if size is None:
        told = replace(told, width=None, height=None)
    return text if "\0" not in text and read(text) == (told, {}) else None


def read(text: str) -> tuple[Made, dict[str, str]]:
    """What such a text says, and its other settings by their names; of any text, without an error.

    The settings are the last line that begins with ``Steps:``, else the last line, or its end from there on, if it holds
    three settings or more, of which two are known: prompts have colons, too.  Names are known in either case.  A
    negative prompt that is not there is unknown, and so is the denoising of a text whose own is that of a second pass.
    """
    lines = [line.strip() for line in LINE_END.split(text.strip())]
    last = next((i for i in reversed(range(len(lines))) if lines[i].startswith(SETTINGS_LINE)), len(lines) - 1)
    lines[last:] = _apart(lines[last])
    last = len(lines) - 1
    settings = _named(lines[last])
    if (_are_few(settings) or NEGATIVE.match(lines[last])) and not lines[last].startswith(SETTINGS_LINE):
        settings, last = {}, len(lines)
    lines = lines[:last]
    begins = next((i for i, line in enumerate(lines) if NEGATIVE.match(line)), len(lines))
    found: dict[str, Any] = {"prompt": "\n".join(lines[:begins]).strip()}
    if begins < len(lines):
        found["negative"] = "\n".join([lines[begins][len(NEGATIVE_LINE) :], *lines[begins + 1 :]]).strip()
    second_pass = any(name.startswith(("Hires ", FIRST_SIZE)) for name in settings)
    for name, (field, convert) in FIELDS.items():
        if name in settings and not (field == "denoise" and second_pass):
            try:
                found[field] = convert(settings[name])
            except ValueError:
                continue
            del settings[name]
    if size := SIZE.fullmatch(settings.get(FIRST_SIZE, settings.get("Size", ""))):
        found["width"], found["height"] = map(int, size.groups())
        settings.pop(FIRST_SIZE, None)
        settings.pop("Size", None)
    return Made(**found), settings


def _apart(line: str) -> list[str]:
    """The parts of a line that holds a prompt, or a negative one, and the settings behind it, as some programs write them."""
    begins, ends = line.find(NEGATIVE_LINE), line.rfind(f" {SETTINGS_LINE}")
    alone = line.partition(":")[0].strip().casefold() in _NAMES  # then it is settings from its beginning on
    if ends < 0 or alone or _are_few(_named(line[ends:])):
        return [line]
    begins = begins if 0 <= begins < ends else ends
    return [part.strip() for part in (line[:begins], line[begins:ends], line[ends:]) if part.strip()]


def _named(line: str) -> dict[str, str]:
    """Settings by their names, which are known in either case."""
    return {_NAMES.get(name.casefold(), name): value for name, value in _settings(line)}


def _are_few(settings: Mapping[str, str]) -> bool:
    return len(settings) < 3 or len(settings.keys() & _NAMES.values()) < 2


def _settings(line: str) -> Iterator[tuple[str, str]]:
    """``Name: value`` between commas, a value in quotes as JSON."""
    at, decoder = 0, json.JSONDecoder()
    while at < len(line):
        end = line.find(",", at)
        end = len(line) if end < 0 else end
        colon = line.find(":", at, end)
        name = line[at:colon].strip()
        if colon < 0 or not name:
            at = end + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin] == " ":
            begin += 1
        if line[begin : begin + 1] == '"':
            try:
                value, after = decoder.raw_decode(line, begin)
            except (ValueError, RecursionError):
                after = -1
            if after == len(line) or line[after : after + 1] == ",":
                yield name, str(value)
                at = after + 1
                continue
        yield name, line[colon + 1 : end].strip()
        at = end + 1


def _quoted(value: Any) -> str:
    """A value as AUTOMATIC1111 puts it: as JSON where it would not be told from the rest.

    DT splits at commas in quotes, too: no colon is left behind one, or a part of a name could pass for a setting.
    """
    text = str(value)
    if text == text.strip() and not text.startswith('"') and not any(mark in text for mark in ",:\r\n"):
        return text
    first, *rest = json.dumps(text, ensure_ascii=False).split(",")
    return ",".join([first, *(part.replace(":", "\\u003a") for part in rest)])


def _number(value: float | None) -> str | None:
    """Without an exponent, which DT does not read."""
    if value is None:
        return None
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _trimmed(text: str) -> str:
    return "\n".join(line.strip() for line in LINE_END.split(text.strip()))


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch("[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return convert


def _word(text: str) -> str:
    if text.casefold() in NOTHING:
        raise ValueError(text)
    return text


def _share(text: str) -> float:
    if (found := _decimal(text)) > 1:
        raise ValueError(text)
    return found


def _decimal(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,40}(\.[0-9]{1,400})?", text):
        raise ValueError(text)
    return float(text)


FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", _whole(1, 10_000)), "Sampler": ("sampler", _word), "Schedule type": ("scheduler", _word),
    "CFG scale": ("cfg", _decimal), "Distilled CFG Scale": ("guidance", _decimal), "Seed": ("seed", _whole(0, 2**64 - 1)),
    "Model": ("model", _word), "Denoising strength": ("denoise", _share),
}  # fmt: skip
_NAMES = {name.casefold(): name for name in (*FIELDS, "Size")}
