"""The encoder: DT's visual layer to the last digit, every way to weights, and what goes wrong."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from luna_dt import Identity, Settings
from luna_dt.demo.database import TINY_IMAGE, TINY_JOINT, TINY_TEXT
from luna_dt.demo.drawing import SUBJECTS, draw, random_scene
from luna_dt.errors import IdentityMismatch, SettingsError, WeightsError
from luna_dt.identity import DT_IDENTITIES
from luna_dt.memory import Memory, place
from luna_dt.models import Encoders, weights
from luna_dt.models.weights import CLIP_MEAN, CLIP_STD, TINY
from luna_dt.records import Float32s

VISUAL = DT_IDENTITIES["visual"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Settings(home=tmp_path, device="cpu")


def pictures() -> list[Image.Image]:
    rng = random.Random(3)
    return [draw(random_scene(rng), size) for size in ((300, 200), (128, 256))]


def squashed(side: int) -> torch.Tensor:
    """What DT feeds its encoder: no crop, bicubic, CLIP's statistics."""
    pixels = [np.asarray(p.resize((side, side), Image.Resampling.BICUBIC), np.float64) / 255 for p in pictures()]
    normalised = (np.stack(pixels) - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    return torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()


def cosines(a: Float32s, b: torch.Tensor) -> Any:
    other = torch.nn.functional.normalize(b, dim=-1).numpy()
    return (a * other).sum(axis=1)


@pytest.mark.parametrize(
    "form", ["transformers safetensors", "transformers torch", "open_clip safetensors", "open_clip torch"]
)
def test_every_form_of_weights_gives_the_same_projected_vector(settings: Settings, form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 28, "layers": 2, "width": 64, "head_width": 32, "patch_size": 14},
        "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**config).eval()
    folder = settings.models_folders[0] / "small-random"
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if form.startswith("transformers"):
        state = as_transformers(state)
    file = folder / "open_clip_model.safetensors"
    if form.endswith("torch"):
        loaded = folder / "weights.bin"
        torch.save({"state_dict": {f"module.{n}": v for n, v in state.items()}} if "open" in form else state, loaded)
        state = weights.tensors(loaded, "image", torch.float32)
        state = {f"visual.{name}": value for name, value in state.items()}
    save_file(state, file)
    with torch.inference_mode():
        expected = model.encode_image(squashed(28))
    identity = Identity("small", "random", "image", "projected", "squash", 24)
    assert (cosines(Encoders(settings).pictures(identity, pictures()), expected) > 1 - 1e-5).all()


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights through transformers' own model, filled by their meaning."""
    vision = CLIPVisionModelWithProjection(
        CLIPVisionConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
                         image_size=28, patch_size=14, hidden_act="gelu", projection_dim=24)
    ).eval()  # fmt: skip
    with torch.no_grad():
        inner = vision.vision_model
        inner.embeddings.class_embedding.copy_(state["visual.class_embedding"])
        inner.embeddings.patch_embedding.weight.copy_(state["visual.conv1.weight"])
        inner.embeddings.position_embedding.weight.copy_(state["visual.positional_embedding"])
        vision.visual_projection.weight.copy_(state["visual.proj"].T)
        for ours, theirs in (("ln_pre", inner.pre_layrnorm), ("ln_post", inner.post_layernorm)):
            theirs.weight.copy_(state[f"visual.{ours}.weight"])
            theirs.bias.copy_(state[f"visual.{ours}.bias"])
        for i, layer in enumerate(inner.encoder.layers):
            block = f"visual.transformer.resblocks.{i}."
            parts = zip(
                (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                state[block + "attn.in_proj_weight"].chunk(3), state[block + "attn.in_proj_bias"].chunk(3), strict=True,
            )  # fmt: skip
            for part, weight, bias in parts:
                part.weight.copy_(weight)
                part.bias.copy_(bias)
            for ours, theirs in (
                ("attn.out_proj", layer.self_attn.out_proj), ("ln_1", layer.layer_norm1), ("ln_2", layer.layer_norm2),
                ("mlp.c_fc", layer.mlp.fc1), ("mlp.c_proj", layer.mlp.fc2),
            ):  # fmt: skip
                theirs.weight.copy_(state[f"{block}{ours}.weight"])
                theirs.bias.copy_(state[f"{block}{ours}.bias"])
    return {name: value.contiguous() for name, value in vision.state_dict().items()}


VISION = {  # width, MLP, heads, activation, projection: of the real architectures, here with two layers of theirs
    "ViT-H-14:laion2b_s32b_b79k": (1280, 5120, 16, "gelu", 1024),
    "ViT-bigG-14:laion2b_s39b_b160k": (1664, 8192, 16, "gelu", 1280),
    "ViT-L-14:openai": (1024, 4096, 16, "quick_gelu", 768),
}
TEXT = {
    "ViT-H-14:laion2b_s32b_b79k": (1024, 4096, 16, "gelu", 1024),
    "ViT-bigG-14:laion2b_s39b_b160k": (1280, 5120, 20, "gelu", 1280),
    "ViT-bigG-14:sdxl": (1280, 5120, 20, "gelu", 1280),
    "ViT-L-14:openai": (768, 3072, 12, "quick_gelu", 768),
    "ViT-L-14:sdxl": (768, 3072, 12, "quick_gelu", 768),
}
FILES = {  # as ComfyUI's users have them
    "ViT-H-14:laion2b_s32b_b79k": "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    "ViT-bigG-14:laion2b_s39b_b160k": "clip_vision_g.safetensors",
    "ViT-L-14:openai": "clip-vit-large-patch14.safetensors",
    "ViT-bigG-14:sdxl": "clip_g.safetensors",
    "ViT-L-14:sdxl": "clip_l.safetensors",
}


@pytest.fixture
def two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_clip.get_model_config

    def shortened(name: str) -> Any:
        config = whole(name)
        return {
            **config,
            "vision_cfg": {**config["vision_cfg"], "layers": 2},
            "text_cfg": {**config["text_cfg"], "layers": 2},
        }

    monkeypatch.setattr(open_clip, "get_model_config", shortened)


@pytest.mark.models
@pytest.mark.usefixtures("two_layers")
def test_dts_visual_layer_is_transformers_pooled_output_of_vit_h(settings: Settings) -> None:
    """The real architecture at full width and two layers deep, with random weights under transformers' names."""
    config = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=2, num_attention_heads=16,
        image_size=224, patch_size=14, hidden_act="gelu", projection_dim=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = CLIPVisionModel(config).eval()
    settings.models_folders[0].mkdir()
    file = settings.models_folders[0] / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
    reference.save_pretrained(settings.home / "whole")
    shutil.move(settings.home / "whole" / "model.safetensors", file)
    with torch.inference_mode():
        expected = reference(pixel_values=squashed(224)).pooler_output
    del reference
    found = Encoders(settings).pictures(VISUAL, pictures())
    assert found.shape == (2, 1280)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (cosines(found, expected) > 1 - 1e-4).all()
    assert found[0] @ found[1] < 1 - 1e-4  # the pictures do differ there, so the line above means something
    file.unlink()


@pytest.mark.models
@pytest.mark.usefixtures("two_layers")
@pytest.mark.parametrize("model", VISION)
def test_every_image_tower_is_transformers_own(settings: Settings, model: str) -> None:
    width, mlp, heads, activation, dim = VISION[model]
    torch.manual_seed(2)
    reference = CLIPVisionModelWithProjection(
        CLIPVisionConfig(hidden_size=width, intermediate_size=mlp, num_hidden_layers=2, num_attention_heads=heads,
                         image_size=224, patch_size=14, hidden_act=activation, projection_dim=dim)
    ).eval()  # fmt: skip
    settings.models_folders[0].mkdir()
    save_file(reference.state_dict(), settings.models_folders[0] / FILES[model])
    with torch.inference_mode():
        expected = reference(pixel_values=squashed(224))
        pooled = reference.vision_model(pixel_values=squashed(224)).pooler_output
    architecture, _, name = model.partition(":")
    encoders = Encoders(settings)
    projected = Identity(architecture, name, "image", "projected", "squash", dim)
    assert (cosines(encoders.pictures(projected, pictures()), expected.image_embeds) > 1 - 1e-5).all()
    own = replace(projected, output="pooled", dim=width)
    assert (cosines(encoders.pictures(own, pictures()), pooled) > 1 - 1e-5).all()
    with pytest.raises(WeightsError, match=rf"{FILES[model]} holds no text tower"):
        encoders.texts(projected, ["a cat"])


@pytest.mark.models
@pytest.mark.usefixtures("two_layers")
@pytest.mark.parametrize("model", TEXT)
def test_every_text_tower_is_transformers_own(settings: Settings, model: str) -> None:
    width, mlp, heads, activation, dim = TEXT[model]
    torch.manual_seed(3)
    reference = CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=width, intermediate_size=mlp, num_hidden_layers=2, num_attention_heads=heads,
                       hidden_act=activation, projection_dim=dim, eos_token_id=49407)
    ).eval()  # fmt: skip
    texts = ["a cat on a mat, masterpiece", "", "long " * 100]
    architecture, _, name = model.partition(":")
    tokens = open_clip.get_tokenizer(architecture)(texts)
    with torch.inference_mode():
        expected = reference(input_ids=tokens).text_embeds
        pooled = reference.text_model(input_ids=tokens).pooler_output
    state = {name: value for name, value in reference.state_dict().items() if value.is_floating_point()}
    settings.models_folders[0].mkdir()
    # whoever has the whole model under the file's own name is served as well
    file = FILES[model] if name == "sdxl" else f"{architecture}-{name}.safetensors"
    save_file(state, settings.models_folders[0] / file)
    encoders = Encoders(settings)
    projected = Identity(architecture, name, "text", "projected", "", dim)
    assert (cosines(encoders.texts(projected, texts), expected) > 1 - 1e-5).all()
    own = replace(projected, output="pooled", dim=width)
    assert (cosines(encoders.texts(own, texts), pooled) > 1 - 1e-5).all()


@pytest.fixture(scope="module")
def whole_vit_l(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, torch.Tensor]]:
    """A home with a ViT-L at full size under transformers' names, and what it makes of the pictures."""
    torch.manual_seed(4)
    reference = CLIPVisionModelWithProjection(
        CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                         image_size=224, patch_size=14, projection_dim=768)
    ).eval()  # fmt: skip
    home = tmp_path_factory.mktemp("whole")
    file = home / "models" / FILES["ViT-L-14:openai"]
    file.parent.mkdir()
    save_file(reference.state_dict(), file)
    with torch.inference_mode():
        expected = reference(pixel_values=squashed(224)).image_embeds
    yield home, expected
    file.unlink()


LOADS = """
import re, sys
from pathlib import Path
import open_clip, safetensors.torch, torch
from PIL import Image
from luna_dt import Identity, Settings
from luna_dt.memory import Memory
from luna_dt.models import Encoders
identity = Identity("ViT-L-14", "openai", "image", "projected", "squash", 768, variant=sys.argv[2])
def memory(field): return 1024 * int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
encoders = Encoders(Settings(home=Path(sys.argv[1]), device="cpu"))
before = memory("VmRSS")
modules = []
encoders = Encoders(Settings(home=Path(sys.argv[1]), device="cpu"), Memory(residency=modules.append))
tower = encoders.tower(identity)
took = memory("VmHWM") - before
encoders.pictures(identity, [Image.new("RGB", (8, 8))])
print(took / sum(p.nbytes for p in modules[0].parameters()))
if not identity.variant:
    import numpy
    from tests.unit.test_clip import pictures
    numpy.save(sys.argv[3], encoders.pictures(identity, pictures()))
"""


@pytest.mark.models
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("variant", ["", "half"])
def test_loading_takes_little_more_memory_than_the_tower(
    whole_vit_l: tuple[Path, torch.Tensor], tmp_path: Path, variant: str
) -> None:
    """From a file in transformers' names, as it is and converted to half precision; a whole ViT-L, also in depth."""
    home, expected = whole_vit_l
    vectors = tmp_path / "vectors.npy"
    found = subprocess.run(
        [sys.executable, "-c", LOADS, str(home), variant, str(vectors)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(found.stdout) <= 1.3, found.stdout
    if not variant:
        assert (cosines(np.load(vectors), expected) > 1 - 1e-4).all()


def test_squash_and_crop_differ_only_where_the_picture_is_no_square(settings: Settings) -> None:
    encoders = Encoders(settings)

    def squash(picture: Image.Image) -> Any:
        return encoders.pictures(TINY_IMAGE, [picture])[0]

    def crop(picture: Image.Image) -> Any:
        return encoders.pictures(replace(TINY_IMAGE, pixels="crop"), [picture])[0]

    square = draw(random_scene(random.Random(1)), (200, 200))
    np.testing.assert_allclose(squash(square), crop(square), atol=1e-6)
    wide = draw(random_scene(random.Random(1)), (400, 200))
    middle = wide.crop((100, 0, 300, 200))
    assert crop(wide) @ crop(middle) > 0.9
    assert not np.allclose(squash(wide), crop(wide), atol=1e-3)


def test_only_the_needed_tower_is_in_memory(settings: Settings) -> None:
    modules: list[torch.nn.Module] = []
    encoders = Encoders(settings, Memory(residency=modules.append))
    encoders.pictures(TINY_IMAGE, [Image.new("RGB", (8, 8))])
    encoders.texts(TINY_TEXT, ["a cat"])
    image, text = modules
    names = dict(image.named_parameters())
    assert not any("token" in name for name in names)
    assert encoders.tower(TINY_JOINT) is encoders.tower(TINY_IMAGE)  # pooled and projected are one tower
    assert not hasattr(text, "visual")


def test_nothing_to_encode_gives_no_rows(settings: Settings) -> None:
    assert Encoders(settings).pictures(TINY_IMAGE, []).shape == (0, 128)


def test_many_pictures_are_encoded_as_one(settings: Settings) -> None:
    encoders = Encoders(settings)
    many = [draw(random_scene(random.Random(i)), (64, 64)) for i in range(70)]
    expected = encoders.pictures(TINY_IMAGE, [many[66]])[0]
    np.testing.assert_allclose(encoders.pictures(TINY_IMAGE, many)[66], expected, atol=1e-5)


def test_texts_meet_only_layers_that_share_their_space(settings: Settings) -> None:
    encoders = Encoders(settings)
    assert encoders.texts(TINY_JOINT, ["a red cat"]).shape == (1, 128)
    with pytest.raises(IdentityMismatch, match="before the projection"):
        encoders.texts(TINY_IMAGE, ["a red cat"])
    assert encoders.pictures(TINY_TEXT, pictures()).shape == (2, 128)  # projected texts and pictures share one
    for alone in (replace(TINY_TEXT, output="pooled"), DT_IDENTITIES["semantic"], DT_IDENTITIES["style"]):
        with pytest.raises(IdentityMismatch, match="share no space with pictures"):
            encoders.pictures(alone, pictures())


# -- weights that are not as they should be ---------------------------------------------------------


def test_missing_weights_name_file_folder_and_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as told:
        Encoders(settings).pictures(VISUAL, pictures())
    message = str(told.value)
    assert str(settings.models_folders[0] / "ViT-H-14-laion2b_s32b_b79k.safetensors") in message
    assert "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K open_clip_model.safetensors --local-dir" in message


def test_the_hub_cache_is_looked_into(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = settings.home / "hub" / "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K"
    (seen / "snapshots" / "abc").mkdir(parents=True)
    (seen / "refs").mkdir()
    (seen / "refs" / "main").write_text("abc")
    file = seen / "snapshots" / "abc" / "open_clip_model.safetensors"
    file.write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(settings.home / "hub"))
    assert weights.find(VISUAL, settings.models_folders).file == file


def test_unknown_architectures_and_weights_are_told(settings: Settings) -> None:
    unknown = Identity("ViT-Z-99", "x", "image", "pooled", "squash", 8)
    with pytest.raises(WeightsError, match=r"ViT-Z-99.*open_clip_config\.json"):
        Encoders(settings).pictures(unknown, pictures())
    with pytest.raises(WeightsError, match="no place to load them from"):
        weights.find(Identity("ViT-H-14", "mine", "image", "pooled", "squash", 1280), settings.models_folders)


def own_tiny(settings: Settings) -> Path:
    folder = settings.models_folders[0] / "own-tiny"
    shutil.copytree(TINY, folder)
    return folder


OWN = Identity("own", "tiny", "image", "pooled", "squash", 128)


def test_damaged_weights_are_named(settings: Settings) -> None:
    file = own_tiny(settings) / "open_clip_model.safetensors"
    assert Encoders(settings).pictures(OWN, pictures()).shape == (2, 128)
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"x" * 100):
        file.write_bytes(broken)
        with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors cannot be read.*damaged"):
            Encoders(settings).tower(OWN)


def test_weights_that_would_give_other_vectors_are_refused(settings: Settings) -> None:
    file = own_tiny(settings) / "open_clip_model.safetensors"
    state = load_file(file)
    name, whole = "visual.transformer.resblocks.4.mlp.c_fc.weight", file.read_bytes()
    for changed, told in (
        ((state[name] * 100).to(torch.int8), "quantised"),
        (torch.zeros_like(state[name]), "damaged"),
        (torch.full_like(state[name], torch.nan), "damaged"),
    ):
        save_file({**state, name: changed}, file)
        with pytest.raises(WeightsError, match=rf"{file.name} is {told}"):
            Encoders(settings).tower(OWN)
    file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))  # a download that was cut off
    with pytest.raises(WeightsError, match=rf"{file.name} is damaged"):
        Encoders(settings).tower(OWN)


def test_weights_of_another_shape_are_named(settings: Settings) -> None:
    file = own_tiny(settings) / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({**state, "visual.ln_post.weight": torch.ones(7)}, file)
    with pytest.raises(WeightsError, match="not of this architecture"):
        Encoders(settings).tower(OWN)
    save_file({name: value for name, value in state.items() if not name.startswith("visual.")}, file)
    with pytest.raises(WeightsError, match="no image tower"):
        Encoders(settings).tower(OWN)


def test_an_identity_with_another_dimension_is_refused(settings: Settings) -> None:
    wrong = Identity("luna-tiny", "drawings", "image", "pooled", "squash", 64)
    with pytest.raises(WeightsError, match="128 dimensions where its identity says"):
        Encoders(settings).pictures(wrong, pictures())


def test_devices() -> None:
    assert place("cpu") == (torch.device("cpu"), torch.float32)
    if torch.cuda.is_available():
        assert place("cuda:0")[1] == torch.float16
    with pytest.raises(SettingsError, match="CUDA devices"):
        place("cuda:77")
    assert place("auto")[0].type in ("cpu", "cuda", "mps")
    with pytest.raises(SettingsError, match="try auto"):
        place("toaster")


# -- the tiny model means something -----------------------------------------------------------------


@pytest.mark.slow
def test_held_out_pictures_are_found_by_picture_and_by_caption(settings: Settings) -> None:
    """Of the 10 nearest, at least 80 % share the query's subject; its scenes were never trained on."""
    rng = random.Random(20_261_122)
    scenes = [random_scene(rng, subject) for subject in sorted(SUBJECTS) for _ in range(24)]
    assert len(SUBJECTS) >= 20
    encoders = Encoders(settings)
    shown = [draw(scene, (96, 96)) for scene in scenes]
    subjects = np.array([scene.subject for scene in scenes])
    captions = encoders.texts(TINY_JOINT, [scene.caption for scene in scenes])
    joint, pooled = encoders.pictures(TINY_JOINT, shown), encoders.pictures(TINY_IMAGE, shown)

    def precision(queries: Float32s, gallery: Float32s, own: bool) -> float:
        similarity = queries @ gallery.T
        if own:
            np.fill_diagonal(similarity, -2)
        nearest = np.argsort(-similarity, axis=1)[:, :10]
        return float((subjects[nearest] == subjects[:, None]).mean())

    assert precision(pooled, pooled, own=True) >= 0.8
    assert precision(joint, joint, own=True) >= 0.8
    assert precision(captions, joint, own=False) >= 0.8
