"""Reference contrastive decoding: full forward passes of one unpadded element, without a cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def next_log_probabilities(model, inputs: dict[str, Tensor], answer: list[int]) -> Tensor:
    """Return [V] log-probabilities after the prompt and the answer so far."""
    grown = dict(inputs)
    grown["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.int64)], dim=1)
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            more = inputs[name].new_full((1, len(answer)), value)
            grown[name] = torch.cat([inputs[name], more], dim=1)
    with torch.no_grad():
        return torch.log_softmax(model(**grown, use_cache=False).logits[0, -1].double(), dim=-1)


def greedy(model, inputs, other, formula: Callable[[Tensor, Tensor], Tensor], length: int) -> tuple[int, ...]:
    answer: list[int] = []
    end = model.generation_config.eos_token_id
    while len(answer) < length and (not answer or answer[-1] != end):
        scores = formula(next_log_probabilities(model, inputs, answer), next_log_probabilities(model, other, answer))
        answer.append(int(scores.argmax()))
    return tuple(answer)


def without_image(vlm, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = [token for token in inputs["input_ids"][0].tolist() if token != vlm.image_token_id]
    return {"input_ids": torch.tensor([ids])}
