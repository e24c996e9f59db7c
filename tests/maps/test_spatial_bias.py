from __future__ import annotations

import numpy as np
import pytest
from made_maps import cells, made_maps
from made_text_maps import text_maps, text_words

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.maps.head_noun import HeadNoun
from grounding.maps.spatial_bias import SpatialBias, ramp
from grounding.text.words import split_words

GRID = ImageGrid(np.arange(12), (3, 4), (0.0, 0.0, 80.0, 30.0))


def test_left_and_right_are_mirrored_by_a_flip_of_the_image():
    for one, other in ((("left",), ("right",)), (("top", "left"), ("top", "right")), (("middle",), ("middle",))):
        np.testing.assert_allclose(ramp(one, GRID, (80, 30), 0.1)[:, ::-1], ramp(other, GRID, (80, 30), 0.1), rtol=1e-6)
    np.testing.assert_allclose(
        ramp(("top",), GRID, (80, 30), 0.1)[::-1], ramp(("bottom",), GRID, (80, 30), 0.1), rtol=1e-6
    )


def test_a_ramp_is_linear_over_the_whole_picture():
    np.testing.assert_allclose(ramp(("left",), GRID, (80, 30), 0.0)[1], [0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(
        ramp(("left",), GRID, (80, 30), 0.2)[0], 0.2 + 0.8 * np.array([0.875, 0.625, 0.375, 0.125])
    )
    half = ImageGrid(np.arange(12), (3, 4), (40.0, 0.0, 80.0, 30.0))  # the right half of the picture
    np.testing.assert_allclose(ramp(("right",), half, (80, 30), 0.0)[0], [0.5625, 0.6875, 0.8125, 0.9375])
    np.testing.assert_allclose(ramp(("middle",), GRID, (80, 30), 0.0)[0], [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(
        ramp(("middle", "left"), GRID, (80, 30), 0.0)[:, 0], 0.875 * np.array([1 / 3, 1, 1 / 3]), rtol=1e-6
    )


def expression_maps(text, shape=(3, 4)):
    words = text_words(*((word.text, str(word.kind)) for word in split_words(text)), ("</s>", "special"))
    return text_maps(words, np.zeros((len(words), *shape)))


def test_the_words_decide():
    maps = expression_maps("the star on the left")
    result, report = SpatialBias(floor=0.2)(maps)
    expected = maps.values.reshape(*maps.values.shape[:-1], 3, 4) * ramp(("left",), maps.grids[0], maps.image_size, 0.2)
    np.testing.assert_allclose(result.values.reshape(expected.shape), expected, rtol=1e-5)
    assert report.data["sides"] == ["left"]
    plain = expression_maps("the star left of the square")
    result, report = SpatialBias()(plain)
    np.testing.assert_array_equal(result.values, plain.values)
    assert report.detail == "the expression names no side"
    result, report = SpatialBias(vertical=False)(expression_maps("the topmost star"))
    assert report.data["sides"] == []
    with pytest.raises(MethodError, match="floor"):
        SpatialBias(floor=1.5)


def test_words_as_queries_are_weighted_too():
    maps = made_maps()  # "the red star left"
    result, _ = SpatialBias(floor=0.0)(maps)
    np.testing.assert_allclose(
        cells(result), cells(maps) * ramp(("left",), maps.grids[0], maps.image_size, 0.0), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("keep", "expected"),
    [("noun", ["star", "</s>"]), ("phrase", ["small", "red", "star", "</s>"])],
)
def test_only_the_head_noun_or_its_phrase_is_left(keep, expected):
    kinds = [("the", "stop"), ("small", "content"), ("red", "content"), ("star", "content"), ("left", "spatial")]
    kinds += [("of", "stop"), ("the", "stop"), ("blue", "content"), ("square", "content"), ("</s>", "special")]
    words = text_words(*kinds, head="star")
    result, report = HeadNoun(keep)(text_maps(words, np.zeros((len(words), 2, 2))))
    assert [word.text for word in result.words] == expected
    assert report.removed == pytest.approx(1 - len(expected) / 10)


def test_without_a_head_noun_nothing_is_dropped():
    maps = expression_maps("the star")
    result, report = HeadNoun()(maps)
    assert result.words == maps.words
    assert "no head noun" in report.detail
