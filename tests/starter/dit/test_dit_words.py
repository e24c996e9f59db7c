from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from grounding.scenes.drawing import draw_scene
from grounding.scenes.language import SceneTexts
from grounding.starter.dit.stages import clip_ids_of_t5
from grounding.starter.dit.words import MAX_TOKENS, WORDS, build_clip_tokenizer, build_t5_tokenizer


def test_every_word_is_one_token_of_both_tokenizers():
    t5, clip = build_t5_tokenizer(), build_clip_tokenizer()
    for word in WORDS:
        assert t5(word).tokens() == [f"▁{word}", "</s>"]
        assert clip(word).tokens() == ["<|startoftext|>", f"{word}</w>", "<|endoftext|>"]


def test_all_expressions_are_known_words():
    t5 = build_t5_tokenizer()
    texts = [e.text for seed in range(40) for e in SceneTexts(draw_scene(seed)).expressions]
    assert all(t5.unk_token_id not in ids for ids in t5(texts).input_ids)


def test_saved_tokenizers_still_ignore_case(tmp_path: Path):
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    build_t5_tokenizer().save_pretrained(tmp_path / "t5")
    build_clip_tokenizer().save_pretrained(tmp_path / "clip")
    t5 = PreTrainedTokenizerFast.from_pretrained(tmp_path / "t5")
    clip = CLIPTokenizer.from_pretrained(tmp_path / "clip")
    for loaded, built in ((t5, build_t5_tokenizer()), (clip, build_clip_tokenizer())):
        assert loaded("The RED circle").input_ids == built("the red circle").input_ids
        assert loaded.model_max_length == MAX_TOKENS


def test_clip_ids_come_from_t5_ids():
    t5, clip = build_t5_tokenizer(), build_clip_tokenizer()
    text = "the small striped red circle left of the square , and a star ."
    ids = torch.tensor(t5(text, padding="max_length", max_length=20).input_ids)
    expected = clip(text, padding="max_length", max_length=21).input_ids
    assert [clip.bos_token_id, *clip_ids_of_t5()[ids].tolist()] == expected
