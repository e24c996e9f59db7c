from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import cells, made_maps, one_row, with_background

from grounding.errors import MethodError
from grounding.maps.contrast import Difference, LayerByContrast, LeastSquares, OtherWords, Ratio
from grounding.maps.heads import HeadMean
from grounding.maps.layers import LayerMean
from grounding.maps.smooth import Smooth
from grounding.maps.words import Rows
from grounding.types import Word, WordKind


def _reduced():
    maps = with_background(made_maps())
    for stage in (HeadMean(), Rows(last=1, normalise=False), LayerMean()):
        maps, _ = stage(maps)
    return maps


def test_ratio_compares_the_same_cells_of_both():
    maps = _reduced()
    assert maps.keys[0] != maps.background.keys[0]
    result, _ = Ratio("Describe.", epsilon=0)(maps)
    np.testing.assert_allclose(cells(result), cells(maps) / cells(maps.background), rtol=1e-5)
    assert result.background is None


def test_ratio_of_an_empty_background_is_finite():
    maps = _reduced()
    behind = replace(maps.background, values=np.zeros_like(maps.background.values))
    assert not cells(Ratio("x")(replace(maps, background=behind))[0]).any()


def test_epsilon_holds_down_cells_that_the_background_ignores():
    maps = replace(one_row([[1, 1, 1, 1]]), background=one_row([[4, 4, 4, 0]]))
    sharp, _ = Ratio("x", epsilon=0.001)(maps)
    mild, _ = Ratio("x", epsilon=1.0)(maps)
    assert sharp.values[..., 3] / sharp.values[..., 0] > 1000
    assert mild.values[..., 3] / mild.values[..., 0] == pytest.approx(7 / 3)


def test_plain_difference_is_clamped_at_zero():
    maps = _reduced()
    result, report = Difference("x", match="none")(maps)
    np.testing.assert_allclose(cells(result), np.maximum(cells(maps) - cells(maps.background), 0), atol=1e-7)
    assert report.removed == pytest.approx(1 - cells(result).sum() / cells(maps).sum(), rel=1e-4)


def test_matched_difference_does_not_depend_on_the_backgrounds_scale():
    maps = _reduced()
    once, _ = Difference("x")(maps)
    louder = replace(maps, background=replace(maps.background, values=maps.background.values * 9))
    np.testing.assert_allclose(Difference("x")(louder)[0].values, once.values, atol=1e-6)


def test_difference_to_itself_is_empty_and_strength_scales_it():
    maps = one_row([[1, 2], [3, 4]])
    both = replace(maps, background=maps)
    result, report = Difference("x")(both)
    assert not result.values.any()
    assert report.removed == 1
    np.testing.assert_allclose(Difference("x", strength=0.5)(both)[0].values, maps.values / 2, rtol=1e-6)


@pytest.mark.parametrize("stage", [Ratio("x"), Difference("x")])
def test_background_must_be_there_and_match(stage):
    maps = _reduced()
    with pytest.raises(MethodError, match="background_prompt"):
        stage(replace(maps, background=None))
    with pytest.raises(MethodError, match="same image size"):
        stage(replace(one_row([[1, 2]]), background=one_row([[1], [2]])))
    with pytest.raises(MethodError, match="same request"):
        stage(replace(maps, background=with_background(made_maps()).background))


@pytest.mark.parametrize("make", [lambda: Ratio(" "), lambda: Difference("x", strength=0), lambda: Smooth(sigma=0)])
def test_numbers_without_meaning_are_refused(make):
    with pytest.raises(MethodError):
        make()


def test_smoothing_keeps_the_mass_and_spreads_it_evenly():
    peak = np.zeros((9, 9))
    peak[4, 4] = 1
    result, _ = Smooth(sigma=1)(one_row(peak))
    blurred = cells(result)[0, 0, 0, 0]
    assert blurred.sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(blurred, blurred[::-1, ::-1], atol=1e-7)
    assert blurred[4, 4] > blurred[4, 5] > blurred[4, 6] > 0
    assert not blurred[0].any()


def test_smoothing_leaves_text_columns_and_does_not_mix_rows():
    maps = made_maps()
    result, _ = Smooth(sigma=2)(maps)
    np.testing.assert_array_equal(result.values[..., :4], maps.values[..., :4])
    only = replace(maps, values=np.where(np.arange(5)[:, None] == 2, maps.values, 0))
    assert not Smooth(sigma=2)(only)[0].values[:, :, :, [0, 1, 3, 4]].any()


def test_least_squares_leaves_what_is_orthogonal_to_the_background():
    maps = one_row([[1, 3], [2, 5]])
    behind = one_row([[1, 1], [2, 0]])
    result, _ = LeastSquares("x")(replace(maps, background=behind))
    a, b = (one.values.ravel().astype(float) for one in (maps, behind))
    fit = np.linalg.lstsq(b[:, None], a, rcond=None)[0][0]
    np.testing.assert_allclose(result.values.ravel(), np.maximum(a - fit * b, 0), rtol=1e-6)
    assert (a - fit * b) @ b == pytest.approx(0, abs=1e-9)
    louder = replace(maps, background=replace(behind, values=behind.values * 7))
    np.testing.assert_allclose(LeastSquares("x")(louder)[0].values, result.values, rtol=1e-5)


def test_other_words_explain_what_is_common_and_the_first_word_stays():
    words = tuple(Word(text, (0, 0), (i,), WordKind.CONTENT) for i, text in enumerate(("red", "star", "red")))
    rows = np.array([[4, 0, 0, 4], [4, 6, 0, 4], [4, 1, 1, 4]], np.float32)
    maps = replace(one_row([[0, 0], [0, 0]]), values=rows[None, None, None], words=words)
    result, _ = OtherWords()(maps)
    np.testing.assert_array_equal(result.values[0, 0, 0, 0], rows[0])
    np.testing.assert_allclose(result.values[0, 0, 0, 1], [0, 6, 0, 0], atol=1e-5)
    scale = rows[2] @ rows[1] / (rows[1] @ rows[1])  # an equal word, the first, is no rival
    np.testing.assert_allclose(result.values[0, 0, 0, 2], np.maximum(rows[2] - scale * rows[1], 0), rtol=1e-5)
    both, _ = OtherWords("other")(maps)
    assert both.values[0, 0, 0, 0].sum() < rows[0].sum()


def test_several_steps_of_a_background_are_joined_by_their_mean_or_their_least():
    maps = one_row([[9, 9, 9]])
    steps = np.stack([np.array([1, 2, 3], np.float32), np.array([3, 4, 1], np.float32)])
    behind = replace(maps, values=steps[:, None, None, None])
    for over, taken in (("mean", [2, 3, 2]), ("least", [1, 2, 1])):
        stage = Difference(background="shifted", over=over, match="none")
        result, _ = stage(replace(maps, background=behind))
        np.testing.assert_allclose(result.values.ravel(), 9 - np.array(taken))


def test_the_layer_that_the_query_changes_most_makes_the_map():
    maps = made_maps(layers=(0, 1, 2, 3), heads=3)
    values = maps.values.copy()
    values[:, 2, 1] += 0.5 * (np.arange(values.shape[-1]) == 10)
    values[:, 2, 0] += 0.3 * (np.arange(values.shape[-1]) == 12)
    stage = LayerByContrast(heads=2)
    result, report = stage(replace(maps, values=values, background=maps))
    assert report.data["heads"] == [[2, 1], [2, 0]]
    expected = np.zeros(values.shape[-1])
    expected[[10, 12]] = 0.25, 0.15
    behind = maps.values[:, 2, :2].mean(axis=2, keepdims=True)
    grid = slice(4, None)  # the columns before it are text
    np.testing.assert_allclose(
        result.values[0, 0, 0, :, grid],
        np.maximum(values[0, 2, :2] - behind[0], 0).mean(axis=0)[:, grid],
        rtol=1e-5,
    )
    assert result.values.shape == (1, 1, 1, 5, values.shape[-1])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Ratio(), "prompt must be given"),
        (lambda: Difference("x", "blank"), "keep one"),
        (lambda: Difference(background="black"), "use prompt, no-query, blank, shifted"),
        (lambda: LeastSquares("x", strength=0), "strength > 0"),
        (lambda: LayerByContrast(heads=0), "heads >= 1"),
    ],
)
def test_a_contrast_says_what_is_wrong_with_it(make, said):
    with pytest.raises(MethodError, match=said):
        make()
