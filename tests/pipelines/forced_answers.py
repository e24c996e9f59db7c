"""Have a model of the real class answer what a test wants: a logits processor leaves one token open at each step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import LogitsProcessor

from grounding.steering.base import GenerateOverrides
from grounding.steering.method import Steering


class Forced(LogitsProcessor):
    """Leave open the tokens of one text each, then the end token, or the text again for ever."""

    def __init__(self, tokens: list[int], end: int, for_ever: bool) -> None:
        self.tokens, self.end, self.for_ever = tokens, end, for_ever
        self.start: int | None = None

    def __call__(self, input_ids, scores):
        if self.start is None:
            self.start = input_ids.shape[1]
        at = input_ids.shape[1] - self.start
        if self.for_ever and self.tokens:
            at %= len(self.tokens)
        token = self.tokens[at] if at < len(self.tokens) else self.end
        forced = torch.full_like(scores, -torch.inf)
        forced[:, token] = 0
        return forced


@dataclass(frozen=True)
class Says:
    """A steering step: the model says this text, whatever it is asked."""

    name: ClassVar[str] = "says"
    text: str
    for_ever: bool = False

    @contextlib.contextmanager
    def applied(self, subject):
        tokenizer = subject.vlm.tokenizer
        tokens = list(tokenizer(self.text, add_special_tokens=False)["input_ids"])
        yield GenerateOverrides(processors=[Forced(tokens, tokenizer.eos_token_id, self.for_ever)])


def says(text: str, for_ever: bool = False) -> Steering:
    return Steering("says", "of the tests", "the tests", (Says(text, for_ever),))
