"""A byte-level tokenizer built in memory, for tiny models of every kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Words that are one token for the tiny tokenizer; every other word is several byte tokens.
WHOLE_WORDS = ("where", "is", "the", "dog", "red", "left", "of", "on", "image", "describe", "user", "assistant")


def byte_tokenizer(
    special: Iterable[str],
    *,
    bos: str | None,
    eos: str,
    pad: str,
    named: Mapping[str, str] | None = None,
    whole: Iterable[str] = (),
) -> Any:
    """A byte-level BPE tokenizer, which can write every string.

    Args:
        special: special tokens.
        bos: the token put before every text, or None.
        eos: the token that ends a text.
        pad: the padding token.
        named: special tokens by the attribute under which a processor looks them up; they are among `special`.
        whole: byte strings, in the byte level's alphabet, that are one token besides `WHOLE_WORDS`.

    Returns:
        A `PreTrainedTokenizerFast` that pads on the left.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special, named = tuple(special), named or {}
    vocabulary = {token: index for index, token in enumerate(special)}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in (*(lead + word for word in WHOLE_WORDS for lead in ("Ġ", "")), *whole):
        for end in range(1, len(word)):
            if word[: end + 1] not in vocabulary:
                vocabulary[word[: end + 1]] = len(vocabulary)
                merges.append((word[:end], word[end]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=dict(named),
        padding_side="left",
    )
    known = (bos, eos, pad, *named.values())
    wrapped.add_special_tokens(
        {"additional_special_tokens": [token for token in special if token not in known]},
        replace_extra_special_tokens=False,
    )
    return wrapped
