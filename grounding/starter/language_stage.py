"""Second stage of training: projector and language model learn to talk about pictures the tower already reads.

The tower is frozen and its features are computed once. No mask and no attention map is a target anywhere: the model is
only ever asked for words, so where it looks is its own doing.
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

from grounding.starter.dataset import SceneArrays, batches
from grounding.starter.language import CELLS
from grounding.starter.packing import NO_LABEL, PREFIX, Packed, dialogue, pack
from grounding.starter.vision_stage import normalise

_CHUNK = 100


def cached_features(model: LlavaForConditionalGeneration, scenes: SceneArrays, path: Path) -> np.ndarray:
    """float16 [N, CELLS * CELLS, width]: what the frozen tower says about every scene, computed once into `path`."""
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
) -> Iterator[tuple[Tensor, Packed]]:
    """Endless batches of (float32 features [B, CELLS * CELLS, width], packed questions); fresh questions every time."""
    ids = tokenizer.get_vocab()

    def encode(text: str) -> list[int]:
        return [ids[word] for word in text.split()]

    for step, rows in enumerate(batches(len(features), size, seed, start), start=start):
        rng = np.random.default_rng((seed, step, 7))
        dialogues = [dialogue(scenes.objects(int(row)), rng) for row in rows]
        yield torch.from_numpy(features[rows]).float(), pack(dialogues, encode)


class Reader(nn.Module):
    """Projector and language model over cached features, sharing their weights with the model."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.projector = model.model.multi_modal_projector
        self.language_model = model.model.language_model

    def forward(self, features: Tensor, packed: Packed) -> tuple[Tensor, dict[str, float]]:
        """Returns the mean loss over answer tokens, and how many of them are predicted right."""
        embeddings = self.language_model.embed_tokens(packed.tokens)
        opening = PREFIX - CELLS * CELLS
        joined = [embeddings[:, :opening], self.projector(features), embeddings[:, PREFIX:]]
        hidden = self.language_model(
            inputs_embeds=torch.cat(joined, dim=1),
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state
        asked = packed.labels != NO_LABEL
        logits = hidden[asked] @ self.language_model.embed_tokens.weight.T
        truth = packed.labels[asked]
        right = (logits.argmax(-1) == truth).float().mean().item()
        return F.cross_entropy(logits, truth), {"right": right}
