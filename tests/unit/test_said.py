"""What a picture's file says of itself: texts and EXIF as the programs write them, and whatever else lies there."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from luna_dt.errors import BadPicture
from luna_dt.pixels import read_pictures, upright_size
from luna_dt.provenance import Made, others, parameters
from luna_dt.provenance.picture import Told, read, user_comment
from luna_dt.provenance.xmp import Marks
from luna_dt.provenance.xmp import read as read_xmp
from tests.unit.test_provenance import ANYTHING, PLAIN, k, n

TEXT = (
    "a fox, größer, 猫\nsecond line\nNegative prompt: blurry, ugly\nSteps: 20, Sampler: Euler a, CFG scale: 6.5, "
    'Seed: 18446744073709551615, Size: 640x512, Model hash: ab12, Model: "pony, v6"'
)
MADE = Made(
    prompt="a fox, größer, 猫\nsecond line", negative="blurry, ugly", steps=20, sampler="Euler a", cfg=6.5,
    seed=2**64 - 1, width=640, height=512, model="pony, v6",
)  # fmt: skip
XMP = (
    '<?xpacket begin="\ufeff"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<r:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">{}</r:Description>'
    '</r:RDF></x:xmpmeta><?xpacket end="w"?>'
)
TAGS = "<xmp:Rating>3</xmp:Rating><dc:subject><r:Bag><r:li>fox</r:li><r:li>süß</r:li></r:Bag></dc:subject><dc:title><r:Alt><r:li>no tag</r:li></r:Alt></dc:title>"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*before: bytes, after: tuple[bytes, ...] = (), size: tuple[int, int] = (4, 2)) -> bytes:
    """A PNG with those chunks before its pixels and behind them."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(3 * size[0])) * size[1]) if size[1] < 10 else b""
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text(name: str, said: str) -> bytes:
    return chunk(b"iTXt", name.encode() + b"\0\0\0\0\0" + said.encode())


def coded(form: str, exif: bytes = b"", **more: Any) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (4, 2)).save(made, form, exif=exif, **more)
    return made.getvalue()


def exif(comment: bytes | None = None, tags: dict[int, Any] | None = None) -> bytes:
    made = Image.Exif()
    made.update(tags or {})
    if comment is not None:
        made.get_ifd(0x8769)[0x9286] = comment
    return made.tobytes()


def told(data: bytes) -> Told:
    return read(io.BytesIO(data))


@pytest.mark.parametrize(
    "data",
    [
        png(text("parameters", TEXT)),
        png(after=(text("parameters", TEXT),)),
        png(chunk(b"tEXt", b"parameters\0" + TEXT.encode())),
        png(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(TEXT.encode()))),
        png(chunk(b"iTXt", b"parameters\0\1\0de\0p\0" + zlib.compress(TEXT.encode()))),
        png(chunk(b"zTXt", b"parameters\0\0damaged"), text("parameters", TEXT)),
        png(text("parameters", TEXT), text("prompt", json.dumps(PLAIN))),
        png(text("parameters", TEXT), text("parameters", "")),
        png(chunk(b"tEXt", b"parameters\0\xef\xbb\xbf" + TEXT.encode() + b"\0")),
        png(text("parameters", TEXT.replace("CFG scale", "CFG Scale").replace("Model:", "model:").replace("640x", "640 x "))),
        *(coded(form, comment=TEXT.encode()) for form in ("GIF", "JPEG")),
        coded("JPEG", exif(tags={0x010E: TEXT.encode()})),
        coded("WEBP", exif(tags={0x9C9C: (TEXT + "\0").encode("utf-16-le")})),
        png(text("parameters", "{}"), chunk(b"eXIf", exif(b"UNICODE\0" + TEXT.encode("utf-16-be"))[6:])),
        *(
            coded(form, exif(code + TEXT.encode(encoding)))
            for form in ("JPEG", "WEBP")
            for code, encoding in (
                (b"UNICODE\0", "utf-16-be"), (b"UNICODE\0", "utf-16-le"), (b"UNICODE\0", "utf-16"), (b"UNICODE\0", "utf-8"),
                (b"ASCII\0\0\0", "utf-8"), (bytes(8), "utf-8"), (b"Unicode\0", "utf-16-le"),
            )
        ),
    ],
)  # fmt: skip
def test_a1111s_text_is_read_wherever_it_lies(data: bytes) -> None:
    found = told(data)
    assert (found.made, found.model_hash, found.width, found.height) == (MADE, "ab12", 4, 2)


def test_latin_1_is_read_as_such() -> None:
    assert told(png(chunk(b"tEXt", "parameters\0größer\nSteps: 2".encode("latin-1")))).made.prompt == "größer"
    assert user_comment(b"ASCII\0\0\0" + "größer".encode("latin-1")) == "größer"
    assert user_comment(None) == ""
    for encoding in ("shift_jis", "iso2022_jp"):
        assert user_comment(b"JIS\0\0\0\0\0" + "a 猫".encode(encoding)) == "a 猫"


@pytest.mark.parametrize(
    "data",
    [
        png(text("prompt", json.dumps(PLAIN))),
        png(text("parameters", "a note"), text("prompt", json.dumps(PLAIN))),
        png(after=(chunk(b"comf", b"prompt\0" + json.dumps(PLAIN).encode()), chunk(b"comf", b"workflow\0{}"))),
        coded("WEBP", exif(tags={0x0110: "prompt:" + json.dumps(PLAIN), 0x010F: 'workflow:{"nodes": []}'})),
        coded("WEBP", exif(tags={0x010F: "Prompt: " + json.dumps(PLAIN)})),
        coded("JPEG", exif(b"UNICODE\0" + json.dumps(PLAIN).encode("utf-16-be"))),
    ],
)
def test_comfyuis_graph_is_read_wherever_it_lies(data: bytes) -> None:
    made = told(data).made
    assert (made.prompt, made.negative, made.seed, made.steps) == ("a fox", "blurry", 7, 20)


FOX = Made(
    "a fox", "blurry", 7, 20, 6.5, None, "euler", "karras", "dream", (("a", 0.5), ("b", -1.0)), width=640, height=512
)
SWARM = {
    "prompt": "a fox", "negativeprompt": "blurry", "model": "dream", "images": 1, "seed": 7, "steps": 20, "cfgscale": 6.5,
    "width": 640, "height": 512, "sampler": "euler", "scheduler": "karras", "loras": ["a", "b"], "loraweights": ["0.5", "-1"],
}  # fmt: skip
FOOOCUS = {
    "metadata_scheme": "fooocus", "version": "Fooocus v2.5.5", "prompt": "a fox", "negative_prompt": "blurry", "styles": "[]",
    "full_prompt": ["a fox, cinematic"], "steps": 20, "seed": "7", "guidance_scale": 6.5, "sampler": "euler", "scheduler":
    "karras", "base_model": "dream", "base_model_hash": "ab12", "resolution": "(640, 512)", "loras": [["a", 0.5, "x"], ["b", -1, "y"]],
}  # fmt: skip
INVOKE = {
    "generation_mode": "sdxl_txt2img", "positive_prompt": "a fox", "negative_prompt": "blurry", "width": 640, "height": 512,
    "seed": 7, "cfg_scale": 6.5, "steps": 20, "scheduler": "euler", "model": {"key": "x", "name": "dream", "hash": "blake3:1"},
    "loras": [{"model": {"name": "a"}, "weight": 0.5}, {"lora": {"model_name": "b"}, "weight": -1}], "strength": 0.3,
}  # fmt: skip
NOVEL = {
    "prompt": "a fox", "uc": "blurry", "steps": 20, "scale": 6.5, "seed": 7, "sampler": "k_euler", "noise_schedule": "karras",
    "width": 640, "height": 512, "uncond_scale": 0.0,
}  # fmt: skip
OLD_INVOKE = {
    "prompt": [{"prompt": "a fox [blurry]", "weight": 1}], "steps": 20, "cfg_scale": 6.5, "seed": 7, "sampler": "k_lms",
    "width": 640, "height": 512, "type": "txt2img", "strength": 0.75,
}  # fmt: skip
RUINED = {
    "Prompt": "a fox", "Negative": "blurry", "steps": 20, "cfg": 6.5, "width": 640, "height": 512, "seed": 7, "sampler_name":
    "euler", "scheduler": "karras", "base_model_name": "dream", "base_model_hash": "ab12", "loras": "Loras:<a:1>", "denoise": None,
    "software": "RuinedFooocus",
}  # fmt: skip
DRAWN = {
    "c": "a fox", "uc": "blurry", "seed": 7, "steps": 20, "scale": 6.5, "sampler": "euler", "size": "640x512", "model": "dream",
    "strength": 1,
}  # fmt: skip
EASY = {
    "prompt": "a fox", "negative_prompt": "blurry", "seed": "7", "num_inference_steps": "20", "guidance_scale": "6.5",
    "width": "640", "height": "512", "sampler_name": "euler", "use_stable_diffusion_model": "dream",
}  # fmt: skip


def swarm(**changes: Any) -> str:
    return json.dumps({"sui_image_params": {**SWARM, **changes}, "sui_extra_data": {"date": "x"}})


def novel(**changes: Any) -> bytes:
    return png(*(text(name, said) for name, said in {
        "Title": "NovelAI generated image", "Description": "a fox", "Software": "NovelAI", "Source": "dream",
        "Comment": json.dumps({**NOVEL, **changes}),
    }.items()))  # fmt: skip


def captions(base: str, *characters: Any) -> dict[str, Any]:
    return {
        "caption": {
            "base_caption": base,
            "char_captions": [{"char_caption": each, "centers": []} for each in characters],
        }
    }


@pytest.mark.parametrize(
    ("data", "made"),
    [
        (png(text("parameters", swarm())), FOX),
        (coded("JPEG", exif(b"UNICODE\0" + swarm().encode("utf-16-be"))), FOX),
        (png(text("parameters", swarm(fluxguidancescale=3.5, cfgscale=1))), replace(FOX, cfg=1.0, guidance=3.5)),
        (png(text("parameters", swarm(loras=["a"], seed=-1, steps=0, cfgscale=True, width="wide", model=5, sampler=None))),
         replace(FOX, loras=None, seed=None, steps=None, cfg=None, width=None, model=None, sampler=None)),
        (png(text("parameters", swarm(loraweights=["0.5", "strong"]))), replace(FOX, loras=None)),
        (png(text("parameters", swarm(loraweights=["0.5", "nan"]))), replace(FOX, loras=None)),
        (png(text("parameters", json.dumps(FOOOCUS))), FOX),
        (coded("WEBP", exif(b"ASCII\0\0\0" + json.dumps(FOOOCUS).encode())), FOX),
        (png(text("parameters", json.dumps({**FOOOCUS, "resolution": "wide", "loras": [["a"]], "prompt": "\ud800"}))),
         replace(FOX, width=None, height=None, loras=None, prompt=None)),
        (png(text("parameters", json.dumps({**FOOOCUS, "loras": []}))), replace(FOX, loras=())),
        (png(text("invokeai_metadata", json.dumps(INVOKE)), text("invokeai_graph", "{}")), replace(FOX, scheduler=None)),
        (png(text("invokeai_metadata", json.dumps({**INVOKE, "positive_style_prompt": "comic", "negative_style_prompt": "blurry"}))),
         replace(FOX, scheduler=None, prompt="a fox\ncomic")),
        (png(text("invokeai_metadata", json.dumps({**INVOKE, "generation_mode": "img2img", "model": {"model_name": "old"}}))),
         replace(FOX, scheduler=None, denoise=0.3, model="old")),
        (png(text("invokeai_metadata", json.dumps({**INVOKE, "generation_mode": "img2img", "strength": 3, "model": "x", "loras": 3}))),
         replace(FOX, scheduler=None, model=None, loras=None)),
        (png(text("invokeai_metadata", json.dumps({"app_version": "5", "loras": [3]}))), Made()),
        (novel(), replace(FOX, sampler="k_euler", loras=None)),
        (novel(v4_prompt=captions("a fox", "girl, red hair", ""), v4_negative_prompt=captions("blurry")),
         replace(FOX, sampler="k_euler", loras=None, prompt="a fox\ngirl, red hair")),
        (novel(v4_prompt=captions("a fox", 5), v4_negative_prompt=[]),
         replace(FOX, sampler="k_euler", loras=None, prompt=None, negative=None)),
        (novel(prompt=None), replace(FOX, sampler="k_euler", loras=None, prompt=None)),
        (png(text("Software", "NovelAI"), text("Description", "a fox"), text("Comment", json.dumps({"uc": "", "seed": 7}))),
         Made(prompt="a fox", negative="", seed=7)),
        (png(text("sd-metadata", json.dumps({"model_weights": "dream", "image": OLD_INVOKE}))),
         replace(FOX, sampler="k_lms", scheduler=None, loras=None)),
        (png(text("sd-metadata", json.dumps({"image": {**OLD_INVOKE, "type": "img2img", "prompt": [3]}}))),
         replace(FOX, sampler="k_lms", scheduler=None, loras=None, denoise=0.75, prompt=None, negative=None, model=None)),
        (png(text("parameters", json.dumps(RUINED))), replace(FOX, loras=None)),
        (png(text("XML:com.adobe.xmp", XMP.replace("xmlns:xmp", 'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp', 1).format(
            "<exif:UserComment><r:Alt><r:li>" + json.dumps(DRAWN) + "</r:li></r:Alt></exif:UserComment>"))),
         replace(FOX, loras=None, scheduler=None, denoise=1.0)),
        (png(*(text(name, said) for name, said in EASY.items())), replace(FOX, loras=None, scheduler=None)),
        (png(text("parameters", TEXT), text("invokeai_metadata", json.dumps(INVOKE))), MADE),
    ],
)  # fmt: skip
def test_what_other_programs_write_is_read(data: bytes, made: Made) -> None:
    found = told(data)
    assert found.made == made
    assert found.model_hash == ("ab12" if b"ooocus" in data or b"ab12" in data else "")


@settings(max_examples=300, deadline=None)
@given(
    some.dictionaries(
        some.sampled_from([*SWARM, *FOOOCUS, *INVOKE, *NOVEL, *RUINED, *DRAWN, "v4_prompt"]), ANYTHING, max_size=8
    )
)
@pytest.mark.slow
def test_nothing_that_other_programs_write_raises(said: dict[str, Any]) -> None:
    for texts in (
        {"parameters": json.dumps({"sui_image_params": said})}, {"parameters": json.dumps({**said, "metadata_scheme": "fooocus"})},
        {"invokeai_metadata": json.dumps(said)}, {"parameters": json.dumps({**said, "software": "RuinedFooocus"})},
        {"sd-metadata": json.dumps({"image": said})}, {"parameters": json.dumps({**DRAWN, **said})}, {"Software": "NovelAI", "Comment": json.dumps(said)},
    ):  # fmt: skip
        found = others.read(texts, ())
        if found:
            parameters.write(found[0])


def test_of_several_saved_pictures_only_what_all_share_is_told() -> None:
    graph = {
        **PLAIN,
        "s2": k(seed=8),
        "d2": n("VAEDecode", samples=("s2", 0)),
        "out2": n("Image Save", images=("d2", 0)),
    }
    made = told(png(text("prompt", json.dumps(graph)))).made
    assert (made.prompt, made.seed, made.steps) == ("a fox", None, 20)
    graph["out2"] = n("PreviewImage", images=("d2", 0))  # which saves nothing
    assert told(png(text("prompt", json.dumps(graph)))).made.seed == 7
    del graph["out"]  # then it is the preview that was kept
    assert told(png(text("prompt", json.dumps(graph)))).made.seed == 8
    graph["out3"] = n("VHS_VideoCombine", images=("decode", 0))
    assert told(png(text("prompt", json.dumps(graph)))).made.seed == 7
    graph["out3"] = n("Odd", images=("decode", 0))  # which may have saved it
    assert told(png(text("prompt", json.dumps(graph)))).made.seed is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize(
    "data",
    [
        png(),
        png(text("parameters", json.dumps({"sui_image_params": ["prompt"]}))),
        png(text("parameters", json.dumps({"prompt": "whose?", "seed": 1, "steps": 2}))),
        png(text("invokeai_metadata", "[1]")),
        png(text("Comment", json.dumps({"prompt": "x", "seed": 1}))),
        png(text("Software", "NovelAI"), text("Comment", "{" * 100_000)),
        png(text("prompt", "[" * 100_000)),
        png(text("prompt", '{"1": ')),
        png(text("prompt", "null")),
        png(text("parameters", "  ")),
        png(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"Steps: 20, " * 2_000_000))),  # 22 MB
        coded("JPEG", exif(b"ASCII\0\0\0taken on holiday: sun, sea, sand")),
        coded("JPEG", exif(b"UNICODE\0" + "Urlaub".encode("utf-16-le"))),
        coded("JPEG", b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    ],
)
def test_what_is_not_understood_is_left_out(data: bytes) -> None:
    assert told(data) == Told(4, 2, Made(), "", None, ())


def test_ratings_and_tags() -> None:
    packet, jpeg = XMP.format(TAGS).encode(), coded("JPEG")
    marked = b"http://ns.adobe.com/xap/1.0/\0" + packet
    for data in (
        png(text("XML:com.adobe.xmp", packet.decode())),
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(marked) + 2) + marked + jpeg[2:],
        coded("WEBP", xmp=packet),
        coded("TIFF", exif(tags={0x02BC: packet})),
        coded("WEBP", exif(tags={0x4746: 1, 0x9C9E: "other\0".encode("utf-16-le")}), xmp=packet),
    ):
        found = told(data)
        assert (found.rating, found.tags) == (3, ("fox", "süß"))
    found = told(coded("JPEG", exif(tags={0x4746: 5, 0x9C9E: "red hair; süß;red hair;;\0".encode("utf-16-le")})))
    assert (found.rating, found.tags) == (5, ("red hair", "süß"))
    assert told(coded("JPEG", exif(tags={0x4746: 0}))).rating is None
    assert told(coded("JPEG", exif(tags={0x4746: 99}))).rating is None


def test_xmp_is_bounded() -> None:
    grows = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    said = XMP.format("<dc:subject><r:Bag><r:li>&b;</r:li></r:Bag></dc:subject>")
    assert read_xmp((grows + said[said.index("<x:") :]).encode()) == Marks()
    assert read_xmp((grows + said[said.index("<x:") :]).encode("utf-16")) == Marks()
    for other in (b"", b"<x", b"\xff\xfe\x00", XMP.format(TAGS).encode()[:-60], b"<a>" * 100_000):
        assert read_xmp(other) == Marks()
    for stars in ("-1", "0", "6", "3.5", "many", ""):
        assert read_xmp(XMP.format(f"<xmp:Rating>{stars}</xmp:Rating>").encode()).rating is None
    assert read_xmp(XMP.format("<xmp:Rating>4.0</xmp:Rating>").encode("utf-16-le")).rating == 4
    assert read_xmp(XMP.format(TAGS).encode() + bytes(100)).tags == ("fox", "süß")


def lying(said: str) -> str:
    """An XMP packet that says how a picture lies."""
    return XMP.replace(">{}", ' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {}').format(said)


def raw_profile(content: bytes) -> bytes:
    """EXIF as ImageMagick puts it into a PNG's text."""
    return f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()


def test_a_picture_is_measured_as_it_is_seen() -> None:
    for turn in range(1, 9):
        for data in (
            coded("JPEG", exif(tags={0x0112: turn})),
            coded("WEBP", exif(tags={0x0112: turn})),
            png(chunk(b"eXIf", exif(tags={0x0112: turn})[6:])),
            png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(exif(tags={0x0112: turn}))))),
            png(text("XML:com.adobe.xmp", lying(f'tiff:Orientation="{turn}">'))),
            png(text("XML:com.adobe.xmp", lying(f"><tiff:Orientation>{turn}</tiff:Orientation>"))),
            png(
                text("XML:com.adobe.xmp", lying('tiff:Orientation="6">')), chunk(b"eXIf", exif(tags={0x0112: turn})[6:])
            ),
            coded("WEBP", xmp=lying(f'tiff:Orientation="{turn}">').encode()),
        ):
            size = (4, 2) if turn < 5 else (2, 4)
            assert (
                (told(data).width, told(data).height)
                == upright_size(io.BytesIO(data))
                == read_pictures(data)[0].size
                == size
            )


@pytest.mark.parametrize(
    "data",
    [b"", b"\x89PNG\r\n\x1a\n", png()[:20], b"%PDF-1.4", b"<svg/>", png(size=(0, 4)), png(size=(200_000, 200_000))],
)
def test_what_is_no_picture_is_told(data: bytes) -> None:
    with pytest.raises(BadPicture):
        told(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_raises_nothing_else() -> None:
    rng = random.Random(0)
    whole = [png(text("parameters", TEXT), text("XML:com.adobe.xmp", XMP.format(TAGS)), chunk(b"eXIf", exif(b"UNICODE\0")[6:])),
             coded("JPEG", exif(b"UNICODE\0" + TEXT.encode("utf-16-be"), {0x4746: 3})),
             coded("WEBP", exif(tags={0x0110: "prompt:" + json.dumps(PLAIN)}))]  # fmt: skip
    for _ in range(300):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), 600))] = rng.randrange(256)
        try:
            told(bytes(data[: rng.randint(1, len(data))]))
        except BadPicture:
            continue


def test_a_file_is_read_from_disk_as_well(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(text("parameters", TEXT)))
    with file.open("rb") as data:
        assert read(data).made == MADE
