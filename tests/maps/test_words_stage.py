from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import LAST, WORDS, made_maps, with_background

from grounding.errors import ExpressionError, MethodError
from grounding.maps.base import image_columns
from grounding.maps.words import Rows, StopWords
from grounding.types import WordKind


def test_stop_words_go_and_the_rest_keeps_its_rows():
    maps = made_maps()
    result, report = StopWords()(maps)
    assert [word.text for word in result.words] == ["red", "star", "left", "<last>"]
    np.testing.assert_array_equal(result.values, maps.values[:, :, :, 1:])
    assert report.data["dropped"] == ["the"]
    assert report.dropped == {0: "stop word"}
    assert report.removed == pytest.approx(0.2, abs=1e-6)


def test_nothing_but_stop_words_is_an_error_that_quotes_them():
    maps = made_maps(words=(WORDS[0], replace(WORDS[0], text="of")))
    with pytest.raises(ExpressionError, match="'the of'"):
        StopWords()(maps)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Rows(last=1, normalise=False), [0, 0, 0, 0, 1]),
        (Rows(content=1, normalise=False), [0, 0.5, 0.5, 0, 0]),
        (Rows(head=2, normalise=False), [0, 0, 1, 0, 0]),
        (Rows(words=1, normalise=False), [0.25, 0.25, 0.25, 0.25, 0]),
        (Rows(content=1, head=1, last=2, normalise=False), [0, 0.125, 0.375, 0, 0.5]),
        (Rows(spatial=1, stop=1, normalise=False), [0.5, 0, 0, 0.5, 0]),
    ],
)
def test_groups_are_mixed_by_their_weights(stage, expected):
    maps = made_maps()
    result, report = stage(maps)
    assert result.values.shape[3] == 1
    np.testing.assert_allclose(result.values[:, :, :, 0], np.einsum("t,slhtk->slhk", expected, maps.values), rtol=1e-5)
    np.testing.assert_allclose(list(report.data["share"].values()), expected, atol=1e-4)
    np.testing.assert_allclose(report.weights, expected, atol=1e-6)
    assert set(report.dropped) == {index for index, weight in enumerate(expected) if weight == 0}
    assert result.words[0].kind == WordKind.SPECIAL


def test_a_group_that_is_not_there_leaves_its_weight_to_the_others():
    maps = made_maps(words=(WORDS[1], LAST))
    result, _ = Rows(content=1, head=5, last=1, normalise=False)(maps)
    np.testing.assert_allclose(result.values[:, :, :, 0], maps.values.mean(3), rtol=1e-5)


def test_normalised_rows_count_the_same_however_much_they_look_at_the_image():
    maps = made_maps()
    quiet = maps.values.copy()
    quiet[:, :, :, 1] *= 0.01
    loud, _ = Rows(words=1)(maps)
    same, _ = Rows(words=1)(replace(maps, values=quiet))
    np.testing.assert_allclose(same.values, loud.values, rtol=1e-4)
    assert loud.values[..., image_columns(maps)].sum(-1).mean() == pytest.approx(1, rel=1e-5)


def test_normalising_keeps_the_proportions_of_heads():
    maps = made_maps()
    result, _ = Rows(last=1)(maps)
    ratio = result.values[:, :, :, 0] / maps.values[:, :, :, -1]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_a_row_that_sees_no_cell_adds_nothing():
    maps = made_maps()
    blind = maps.values.copy()
    blind[:, :, :, 1][..., image_columns(maps)] = 0
    assert np.isfinite(Rows(content=1)(replace(maps, values=blind))[0].values).all()


def test_a_prompt_without_words_is_read_from_its_last_token():
    maps = with_background(made_maps())
    result, _ = Rows(content=1, normalise=False)(maps)
    np.testing.assert_array_equal(result.background.values, maps.background.values)


def test_a_generic_prompts_own_words_are_not_read():
    maps = made_maps()
    words = tuple(replace(word, text=f"{word.text}s") for word in WORDS[:-1])
    behind = made_maps(3, words=(*words, LAST))
    result, _ = Rows(content=1, head=1, normalise=False)(replace(maps, background=behind))
    np.testing.assert_array_equal(result.background.values, behind.values[:, :, :, -1:])
    same, _ = Rows(content=1, normalise=False)(replace(maps, background=made_maps(3)))
    np.testing.assert_allclose(same.background.values, made_maps(3).values[:, :, :, 1:3].mean(3, keepdims=True))
    wordy = made_maps(3, words=words[:2])
    result, _ = Rows(last=1, normalise=False)(replace(maps, background=wordy))
    np.testing.assert_allclose(result.background.values, wordy.values.mean(3, keepdims=True), rtol=1e-5)


def test_no_word_of_the_wanted_kind_is_an_error():
    with pytest.raises(ExpressionError, match="content, head"):
        Rows(content=1, head=1)(made_maps(words=(WORDS[0], LAST)))


@pytest.mark.parametrize("make", [Rows, lambda: Rows(content=-1, last=2), lambda: StopWords(kinds=())])
def test_weights_without_meaning_are_refused(make):
    with pytest.raises(MethodError):
        make()


def test_a_word_that_is_not_read_is_dropped_with_what_is_read_instead():
    _, report = Rows(content=1, last=2)(made_maps())
    assert report.dropped == dict.fromkeys((0, 3), "the method reads content words and the last token")
