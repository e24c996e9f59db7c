"""How a text is generated, and what came out."""

from __future__ import annotations

from dataclasses import dataclass

from grounding.errors import MethodError


@dataclass(frozen=True)
class Decoding:
    """Settings of `generate`, the same for every method that is compared.

    Attributes:
        max_new_tokens: the longest text in tokens.
        num_beams: beams; 1 is greedy search or sampling.
        do_sample: draw tokens instead of taking the likeliest.
        temperature: of the draws.
        top_k: how many of the likeliest tokens are drawn from; 0 is all, and no model's own default comes in between.
        top_p: share of the probability mass that is drawn from.
        seed: of the draws. Each batch starts from it, so a batch gives the same texts whenever it is run.
    """

    max_new_tokens: int = 512
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise MethodError(
                f"max_new_tokens {self.max_new_tokens} and num_beams {self.num_beams} were given, expected at least 1"
            )
        if not (self.temperature > 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise MethodError(
                f"temperature {self.temperature}, top_k {self.top_k} and top_p {self.top_p} were given, expected a "
                "temperature above 0, a top_k of at least 0 and a top_p in (0, 1]"
            )


@dataclass(frozen=True)
class Generated:
    """One generated text.

    Attributes:
        text: without special tokens.
        token_ids: of the new tokens, without padding; the end token is included where it was reached.
        finished: whether the text ended by itself before the limit.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
