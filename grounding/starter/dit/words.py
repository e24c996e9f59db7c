"""Tokenizers of the scenes' closed vocabulary: one piece per word, for T5 and for CLIP, built in memory.

A word's map is then the column of one token.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from grounding.scenes.language import VOCABULARY

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

# Captions have no numbers; CLIP splits those of two digits.
WORDS: tuple[str, ...] = (*(word for word in VOCABULARY if not word.isdigit()), "with", "picture", "middle")
MAX_TOKENS = 64  # of a caption with its end token; six fully described objects fit
_T5_SPECIAL = ("<pad>", "</s>", "<unk>")
_MARKS = (".", ",", "?", ":")  # also written without a space before them
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_t5_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with T5's rules, the words as pieces, and without regard to case.

    Its class is the general one, since `T5TokenizerFast` drops the normalizer when a folder is loaded.
    """
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast, T5TokenizerFast

    pieces = [(piece, 0.0) for piece in _T5_SPECIAL]
    pieces += [("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS), *((mark, -1.0) for mark in _MARKS)]
    rules = T5TokenizerFast(vocab=pieces, extra_ids=0).backend_tokenizer
    rules.normalizer = normalizers.Lowercase()
    pad, end, unknown = _T5_SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token=pad, eos_token=end, unk_token=unknown, model_max_length=MAX_TOKENS
    )


def build_clip_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer whose byte pairs merge every word into one token."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _byte_pairs()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=MAX_TOKENS)


@cache
def _byte_pairs() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """Train byte pairs until every word is one token; the special tokens come last, as in CLIP."""
    import json

    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = model["vocab"]
    for token in (_START, _END):
        vocabulary[token] = len(vocabulary)
    return vocabulary, tuple(tuple(pair) for pair in model["merges"])
