"""Define the settings of a generation (`Decoding`) and its result (`Generated`)."""

from __future__ import annotations

from dataclasses import dataclass

from grounding.errors import MethodError


@dataclass(frozen=True)
class Decoding:
    """Set the arguments of `generate`; comparisons use the same settings for every method.

    Attributes:
        max_new_tokens: maximum length of a text in tokens, >= 1.
        num_beams: number of beams, >= 1; 1 is greedy search or sampling.
        do_sample: sample tokens instead of taking the most probable one.
        temperature: of sampling, > 0.
        top_k: sample from the k most probable tokens; 0 disables the limit and also overrides the model's default.
        top_p: nucleus mass to sample from, in (0, 1].
        seed: of sampling. Each batch starts from it, so its texts do not depend on the batches before.
        stop_at_repeats: end a text where it begins to repeat itself (`grounding.text.repeats`) and leave the repeat
            out. Off by default, since published figures are of texts that go on.

    Raises:
        MethodError: a value is out of range.
    """

    max_new_tokens: int = 512
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop_at_repeats: bool = False

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
    """Hold one generated text.

    Attributes:
        text: decoded without special tokens, stripped.
        token_ids: new tokens without padding, the end token included where it was generated.
        finished: whether the end token was generated within the limit.
        repeated: whether the text was ended where it began to repeat itself.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    repeated: bool = False
