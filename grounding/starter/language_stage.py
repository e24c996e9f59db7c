"""Train projector and language model, the second stage, on questions about pictures.

The tower is frozen and its features are computed once. As in LLaVA, the projector is aligned with the word embeddings:
a projected cell should resemble the words for what the cell shows. No mask and no attention map is a target; the
language model is trained on words only.

Notes:
    Our own choice: alignment is trained jointly with the questions, because a model of this size hardly learns by
    itself to match the word "red" with a red cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from grounding.scenes.drawing import COLOURS, PATTERNS, SHAPES, SIZES
from grounding.scenes.language import CELLS
from grounding.starter.dataset import SceneArrays, batches
from grounding.starter.packing import Packed, answer_loss, dialogue, pack
from grounding.starter.vision_stage import CellLabels, labels_of, normalise

_CHUNK = 100
_ALIGNMENT_WEIGHT = 3.0
_NAMES = (SHAPES, tuple(COLOURS), tuple(SIZES), PATTERNS)  # in the order of the cell labels


def cached_features(model: LlavaForConditionalGeneration, scenes: SceneArrays, path: Path) -> np.ndarray:
    """Compute the frozen tower's features of every scene once, into `path`: float16 [N, CELLS * CELLS, width]."""
    if path.exists():
        return np.load(path, mmap_mode="r")
    tower = model.model.vision_tower.eval()
    count = len(scenes.pixels)
    part = path.with_suffix(".part")
    features = open_memmap(part, mode="w+", dtype=np.float16, shape=(count, CELLS * CELLS, tower.config.hidden_size))
    with torch.inference_mode():
        for start in range(0, count, _CHUNK):
            hidden = tower(normalise(scenes.pixels[start : start + _CHUNK])).last_hidden_state
            features[start : start + _CHUNK] = hidden[:, 1:].half().numpy()
    features.flush()
    part.replace(path)
    return np.load(path, mmap_mode="r")


def conversations(
    scenes: SceneArrays, features: np.ndarray, tokenizer: PreTrainedTokenizerFast, size: int, seed: int, start: int
) -> Iterator[tuple[Tensor, Packed, CellLabels]]:
    """Yield batches without end: float32 features [B, CELLS * CELLS, width], packed questions, targets of the cells.

    The questions are drawn anew for every batch.
    """
    ids = tokenizer.get_vocab()

    def encode(text: str) -> list[int]:
        return [ids[word] for word in text.split()]

    for step, rows in enumerate(batches(len(features), size, seed, start), start=start):
        rng = np.random.default_rng((seed, step, 7))
        dialogues = [dialogue(scenes.objects(int(row)), rng) for row in rows]
        yield torch.from_numpy(features[rows]).float(), pack(dialogues, encode), labels_of(scenes, rows)


class SceneReader(nn.Module):
    """Projector and language model over cached features; the weights are those of the model."""

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.projector = model.model.multi_modal_projector
        self.language_model = model.model.language_model
        ids = tokenizer.get_vocab()
        self.names = [torch.tensor([ids[word] for word in words]) for words in _NAMES]
        self.threshold = nn.Parameter(torch.zeros(()))  # of the similarity; used in training only

    def forward(self, features: Tensor, packed: Packed, labels: CellLabels) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, the accuracy on answer tokens, and the alignment loss."""
        projected = self.projector(features)
        loss, right = answer_loss(self.language_model, projected, packed)
        alignment = self._alignment(projected, labels)
        return loss + _ALIGNMENT_WEIGHT * alignment, {"right": right, "alignment": alignment.item()}

    def _alignment(self, projected: Tensor, labels: CellLabels) -> Tensor:
        """Binary cross-entropy between cell-word similarity and the attributes that the cell shows."""
        loss = projected.new_zeros(())
        for part, words in enumerate(self.names):
            resemblance = projected @ self.language_model.embed_tokens.weight[words].T - self.threshold
            shown = F.one_hot(labels.attributes[..., part], len(words) + 1)[..., 1:].float()
            loss = loss + F.binary_cross_entropy_with_logits(resemblance, shown)
        return loss / len(self.names)
