from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.errors import ExpressionError
from grounding.maps.base import LAST
from grounding.models import teacher_forcing as module
from grounding.models.llava import Llava
from grounding.models.qwen_vl import QwenVL
from grounding.models.teacher_forcing import continued, teacher_forced_maps, tokens_of
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl
from grounding.record_spec import RecordSpec
from grounding.text.nouns import NounPhrase
from grounding.text.words import split_words
from grounding.types import WordKind

FAMILIES = {
    "llava": lambda: Llava(*tiny_llava(), name="tiny"),
    "qwen": lambda: QwenVL(*tiny_qwen2_5_vl(), name="tiny"),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def vlm(request):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]


def every_word(text, finder=None):
    """Every word as a noun phrase."""
    return tuple(NounPhrase(w.text, w.span, (replace(w, is_head=True),)) for w in split_words(text))


def test_teacher_forced_rows_are_those_of_the_decode_steps(vlm, images, monkeypatch) -> None:
    """Every word of a generated text, in a batch with padding on both sides."""
    monkeypatch.setattr(module, "noun_phrases", every_word)
    prepared = vlm.prepare_questions(images, ["where is it", "describe the red dog on the image"])
    image = tuple(tuple(layout.image.tolist()) for layout in prepared.layouts)
    with record(vlm.model, RowRequest(((), ()), keys=image, decode=True, decode_steps=13)) as recording:
        texts = vlm.model.generate(**prepared.inputs, max_new_tokens=13, do_sample=False)[:, prepared.length :]
    cut = [row[: 12 - 3 * i] for i, row in enumerate(texts.tolist())]  # of different lengths
    compared = 0
    for steps, text in zip(recording.decode, teacher_forced_maps(vlm, prepared, cut, RecordSpec()), strict=True):
        for maps in text.maps:
            first, last = maps.words
            assert last.text == LAST
            assert last.positions == (first.positions[0] - 1,)
            rows = [steps[p - prepared.length, :, :, 0] for p in first.positions]  # step 0 reads the first token
            np.testing.assert_allclose(maps.values[0, :, :, 0], torch.stack(rows).mean(0).numpy(), atol=1e-5)
            compared += 1
    assert compared > 1


def test_a_text_with_the_image_token_has_the_rows_of_its_decode_steps(vlm, images, monkeypatch) -> None:
    """A sampled text may hold the model's own control tokens, also in one of two texts only."""
    from transformers import LogitsProcessorList

    monkeypatch.setattr(module, "noun_phrases", every_word)
    prepared = vlm.prepare_questions(images, ["where is it", "describe the red dog on the image"])
    words = tokens_of(vlm, " the red dog on the left")
    answers = [words, (*words[:2], vlm.image_token_id, vlm.tokenizer.all_special_ids[-1], *words[2:-2])]
    steps = iter(zip(*answers, strict=True))

    def say(ids, scores):
        chosen = torch.full_like(scores, -torch.inf)
        chosen[range(2), list(next(steps))] = 0
        return chosen

    image = tuple(tuple(layout.image.tolist()) for layout in prepared.layouts)
    with record(vlm.model, RowRequest(((), ()), keys=image, decode=True, decode_steps=13)) as recording:
        vlm.model.generate(
            **prepared.inputs, max_new_tokens=len(words), do_sample=False, logits_processor=LogitsProcessorList([say])
        )
    texts = teacher_forced_maps(vlm, prepared, [answer[:-1] for answer in answers], RecordSpec())
    assert vlm.image_token not in texts[1].text
    for steps, text in zip(recording.decode, texts, strict=True):
        assert len(text.maps) > 2
        for maps in text.maps:
            rows = [steps[p - prepared.length, :, :, 0] for p in maps.words[0].positions]
            np.testing.assert_allclose(maps.values[0, :, :, 0], torch.stack(rows).mean(0).numpy(), atol=1e-5)
    assert not vlm.model.get_input_embeddings()._forward_hooks
    with pytest.raises(ExpressionError, match="a control token of tiny"):
        tokens_of(vlm, f"a dog {vlm.image_token}")


def test_teacher_forced_rows_are_those_of_eager_attention_over_prompt_and_text(vlm, images) -> None:
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    tokens = tokens_of(vlm, "the red dog is left of the dog")
    spec = RecordSpec(layers=(1,), heads=(2, 0))
    (text,) = teacher_forced_maps(vlm, prepared, [tokens], spec)
    vlm.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            inputs = continued(vlm, prepared.inputs, [tokens])
            attentions = vlm.model(**inputs, output_attentions=True, use_cache=False).attentions
    finally:
        vlm.model.set_attn_implementation("sdpa")
    eager = attentions[1][0, [2, 0]].numpy()  # [H, N, N]
    for maps in (*text.maps, text.reference_words):
        assert maps.layers == (1,)
        for row, word in enumerate(maps.words):
            expected = eager[:, list(word.positions)][..., maps.keys].mean(1)
            np.testing.assert_allclose(maps.values[0, 0, :, row], expected, atol=1e-6)


def test_reference_words_are_stop_words_and_the_prompts_last_token(vlm, images) -> None:
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    read = teacher_forced_maps(vlm, prepared, [tokens_of(vlm, "the red dog is left of the dog")], RecordSpec())[0]
    assert [phrase.text for phrase in read.phrases] == ["red dog", "dog"]
    assert [word.text for word in read.maps[0].words] == ["red", "dog", LAST]
    assert [word.is_head for word in read.maps[0].words] == [False, True, False]
    assert [word.text for word in read.reference_words.words] == ["the", "is", "of", "the", LAST]
    assert read.reference_words.words[-1].positions == (prepared.length - 1,)
    assert {word.kind for word in read.reference_words.words[:-1]} == {WordKind.STOP}
    assert all(maps.values.shape[:3] == (1, 2, 4) for maps in (*read.maps, read.reference_words))


def test_a_text_without_nouns_has_no_maps(vlm, images) -> None:
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    (text,) = teacher_forced_maps(vlm, prepared, [tokens_of(vlm, "it is")], RecordSpec())
    assert text == module.TextMaps("it is", (), (), None)


def test_many_stop_words_are_thinned_evenly(vlm, images, monkeypatch) -> None:
    monkeypatch.setattr(module, "REFERENCE_WORDS", 3)
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    read = teacher_forced_maps(vlm, prepared, [tokens_of(vlm, "the dog is on the dog of the dog")], RecordSpec())[0]
    assert [word.text for word in read.reference_words.words] == ["the", "on", "the", LAST]


def test_a_word_outside_a_closed_vocabulary_is_named() -> None:
    from grounding.models.load import load

    with pytest.raises(ExpressionError, match="outside the vocabulary of starter, behind 'a red'"):
        tokens_of(load("starter", "cpu"), "a red giraffe .")
