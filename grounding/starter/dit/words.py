"""Tokenizers of the scenes' closed vocabulary: one piece per word, for T5 and for CLIP.

A word's map is then the column of one token. Both are the real tokenizer classes, built in memory.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from grounding.scenes.language import VOCABULARY

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5TokenizerFast

# Captions have no numbers; CLIP splits those of two digits.
WORDS: tuple[str, ...] = (*(word for word in VOCABULARY if not word.isdigit()), "with", "picture", "middle")
MAX_TOKENS = 64  # of a caption with its end token; six fully described objects fit
_T5_SPECIAL = ("<pad>", "</s>", "<unk>")
_MARKS = (".", ",", "?", ":")  # also written without a space before them
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_t5_tokenizer() -> T5TokenizerFast:
    """Build a T5 tokenizer whose pieces are the words."""
    from transformers import T5TokenizerFast

    pieces = [(piece, 0.0) for piece in _T5_SPECIAL]
    pieces += [("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS), *((mark, -1.0) for mark in _MARKS)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=MAX_TOKENS)


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
