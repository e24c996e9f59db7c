from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounding.errors import ExpressionError
from grounding.models import teacher_forcing as module
from grounding.models.base import LAST_WORD
from grounding.models.llava import Llava
from grounding.models.maps import answer
from grounding.models.qwen2_5_vl import Qwen25VL
from grounding.models.teacher_forcing import teacher_forced_maps, tokens_of
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl
from grounding.text.nouns import NounPhrase
from grounding.text.words import split_words
from grounding.types import WordKind

FAMILIES = {
    "llava": lambda: Llava(*tiny_llava(), name="tiny"),
    "qwen": lambda: Qwen25VL(*tiny_qwen2_5_vl(), name="tiny"),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def vlm(request):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)) for _ in range(2)]


def test_reading_gives_the_rows_of_the_decode_steps(vlm, images, monkeypatch) -> None:
    """Every word of a generated text, in a batch with padding on both sides."""
    from dataclasses import replace

    def every_word(text, finder=None):
        return tuple(NounPhrase(w.text, w.span, (replace(w, is_head=True),)) for w in split_words(text))

    monkeypatch.setattr(module, "noun_phrases", every_word)
    prepared = vlm.prepare_questions(images, ["where is it", "describe the red dog on the image"])
    spoken = answer(vlm, prepared, max_new_tokens=12)
    texts = vlm.model.generate(**prepared.inputs, max_new_tokens=12, do_sample=False)[:, prepared.length :]
    cut = [row[: 12 - 3 * i] for i, row in enumerate(texts.tolist())]  # of different lengths
    compared = 0
    for one, read in zip(spoken, teacher_forced_maps(vlm, prepared, cut), strict=True):
        rows = (
            {}
            if one.words is None
            else {w.positions: one.words.values[:, :, :, i] for i, w in enumerate(one.words.words)}
        )
        for maps in read.maps:
            assert maps.words[-1].text == LAST_WORD
            assert maps.words[-1].positions == (maps.words[0].positions[0] - 1,)
            if maps.words[0].positions in rows:  # the last word of the shorter text may be cut
                np.testing.assert_allclose(maps.values[:, :, :, 0], rows[maps.words[0].positions], atol=1e-5)
                compared += 1
    assert compared > 1


def test_witnesses_are_stop_words_and_the_prompts_last_token(vlm, images) -> None:
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    read = teacher_forced_maps(vlm, prepared, [tokens_of(vlm, "the red dog is left of the dog")])[0]
    assert [phrase.text for phrase in read.phrases] == ["red dog", "dog"]
    assert [word.text for word in read.maps[0].words] == ["red", "dog", LAST_WORD]
    assert [word.is_head for word in read.maps[0].words] == [False, True, False]
    assert [word.text for word in read.reference_words.words] == ["the", "is", "of", "the", LAST_WORD]
    assert read.reference_words.words[-1].positions == (prepared.length - 1,)
    assert {word.kind for word in read.reference_words.words[:-1]} == {WordKind.STOP}
    assert all(maps.values.shape[:3] == (1, 2, 4) for maps in (*read.maps, read.reference_words))


def test_a_text_without_nouns_has_no_maps(vlm, images) -> None:
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    assert teacher_forced_maps(vlm, prepared, [tokens_of(vlm, "it is")])[0] == module.TextMaps("it is", (), (), None)


def test_many_stop_words_are_thinned_evenly(vlm, images, monkeypatch) -> None:
    monkeypatch.setattr(module, "REFERENCE_WORDS", 3)
    prepared = vlm.prepare_questions(images[:1], ["describe the image"])
    read = teacher_forced_maps(vlm, prepared, [tokens_of(vlm, "the dog is on the dog of the dog")])[0]
    assert [word.text for word in read.reference_words.words] == ["the", "on", "the", LAST_WORD]


def test_a_word_outside_a_closed_vocabulary_is_named() -> None:
    from grounding.models.load import load

    with pytest.raises(ExpressionError, match="outside the vocabulary of starter, behind 'a red'"):
        tokens_of(load("starter", "cpu"), "a red giraffe .")
