"""Sentence encoders (BGE and its kin) by sentence-transformers."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, WeightsError
from ..identity import Identity
from ..memory import Memory, is_out_of_memory
from ..records import Float32s
from . import weights

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_WORDS = re.compile(r"\w+|[^\w\s]")


class SentenceTower:
    """The model an identity names, a sentence-transformers repository; texts in, unit vectors out.

    No query instruction is put before a text, as DT puts none.
    """

    def __init__(self, identity: Identity, folders: Sequence[Path], place: tuple[Any, Any], memory: Memory) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtra("sentence-transformers", "text") from error
        folder = weights.find_sentence_model(identity.architecture, folders)
        self._device, dtype = place
        self._memory = memory
        try:
            self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).to(dtype)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise WeightsError(f"{folder} cannot be loaded ({error}); delete it and get the model again") from error
        self._model.eval().requires_grad_(False)
        self.dim = int(self._model.encode("", show_progress_bar=False).shape[-1])
        self.on_cuda = self._device.type == "cuda"
        self.batch = 256 if self._device.type != "cpu" else 32
        log.info("%s from %s", identity.model, folder)

    def prepared(self, text: str, _: Identity) -> str:
        """The text as it is: it is split into tokens with its batch."""
        return text

    def vectors(self, prepared: Sequence[str], identity: Identity) -> Float32s:
        """float32[n, dim] for texts, each row of length 1; raises OutOfMemory."""
        # texts of one length share a batch, or short ones would be computed at the longest's
        order = sorted(range(len(prepared)), key=lambda i: len(prepared[i]))

        def run(part: Sequence[str]) -> torch.Tensor:
            device = self._memory.ready(self._model, self._device)
            if identity.variant == "words":
                features = {name: value.to(device) for name, value in self._split(part).items()}
                found: torch.Tensor = self._model(features)["sentence_embedding"]
            else:
                found = self._model.encode(
                    list(part),
                    batch_size=len(part),
                    convert_to_tensor=True,
                    device=str(device),
                    show_progress_bar=False,
                )
            if found.shape[1] != identity.dim:
                raise WeightsError(f"the model gives {found.shape[1]} dimensions where its identity says {identity}")
            return found

        vectors = self._memory.in_batches(self, [prepared[i] for i in order], identity.dim, run)
        result = vectors.copy()
        result[order] = vectors
        return result

    def _split(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Whole words looked up in the vocabulary, those it lacks as [UNK]; how DT's own splitter is described."""
        import torch

        known = self._model.tokenizer
        longest = self._model.max_seq_length or 512
        rows = []
        for text in texts:
            words = known.convert_tokens_to_ids(_WORDS.findall(text.lower()))[: longest - 2]
            rows.append(torch.tensor([known.cls_token_id, *words, known.sep_token_id]))
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=known.pad_token_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return {"input_ids": padded, "attention_mask": mask}
