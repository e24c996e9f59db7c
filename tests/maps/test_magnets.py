from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_maps import made_maps
from made_text_maps import text_maps, text_words

from grounding.errors import ExpressionError, MethodError
from grounding.joint_spec import MagnetWords
from grounding.maps.combine import Combine
from grounding.maps.magnets import PRESETS, Magnets
from grounding.maps.words import StopWords
from grounding.record_spec import RecordSpec
from grounding.types import WordKind

EXPRESSION = (("the", "stop"), ("red", "content"), ("star", "content"), ("</s>", "special"))
MAGNETS = (("a", "magnet"), ("</s>", "magnet"), ("pink", "magnet"), ("</s>", "magnet"))


def joined(maps):
    for stage in (Magnets(), StopWords(), Combine()):
        maps, _ = stage(maps)
    return maps.values[0, 0, 0, 0]


def test_the_map_is_one_minus_what_was_dropped():
    rng = np.random.default_rng(0)
    maps = text_maps(text_words(*EXPRESSION, *MAGNETS), rng.normal(size=(8, 5, 7)))
    np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-6)
    dropped = maps.values[0, 0, 0, [0, 3, 4, 5, 6, 7]].sum(axis=0)
    np.testing.assert_allclose(joined(maps), 1 - dropped, atol=1e-6)


def test_with_frozen_logits_magnets_take_their_share_of_every_word():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(8, 5, 7))
    without = joined(text_maps(text_words(*EXPRESSION), logits[:4]))
    with_magnets = joined(text_maps(text_words(*EXPRESSION, *MAGNETS), logits))
    of_text, of_magnets = np.exp(logits[:4]).sum(axis=0), np.exp(logits[4:]).sum(axis=0)
    np.testing.assert_allclose(with_magnets / without, (of_text / (of_text + of_magnets)).ravel(), rtol=1e-5)


def test_a_magnet_that_fits_the_background_moves_the_peak_to_the_object():
    logits = np.zeros((4, 4, 4))
    logits[2, 0, 0] = 2  # the object
    logits[1:3, 3, 3] = 3  # a patch of background that the words fit better than any other word
    magnet = np.zeros((1, 4, 4))
    magnet[0, 3, 3] = 6
    assert joined(text_maps(text_words(*EXPRESSION), logits)).argmax() == 15
    found = joined(text_maps(text_words(*EXPRESSION, MAGNETS[0]), np.concatenate([logits, magnet])))
    assert found.argmax() == 0


def test_the_stage_asks_for_its_preset_and_says_what_it_dropped():
    assert Magnets().needs(4) == RecordSpec(magnets=MagnetWords(("_", "with", "a", "the", "pink")))
    assert Magnets("page", encoding="inline").needs(None).magnets == MagnetWords((".", "a", "with"), "inline")
    assert Magnets(words=("with", "pink")).needs(4).magnets.texts == ("with", "pink")
    assert Magnets("none").needs(4) == RecordSpec()
    assert set(PRESETS) == {"teaser", "page", "figure2", "commas", "none"}
    maps = text_maps(text_words(*EXPRESSION, *MAGNETS), np.zeros((8, 2, 2)))
    result, report = Magnets()(maps)
    assert [word.text for word in result.words] == ["the", "red", "star", "</s>"]
    assert report.data["dropped"] == ["a", "</s>", "pink", "</s>"]
    assert report.removed == pytest.approx(0.5)


def test_one_recording_has_one_list_of_magnets():
    page, figure = (Magnets(preset).needs(4) for preset in ("page", "figure2"))
    assert (page | RecordSpec()).magnets == page.magnets
    with pytest.raises(ValueError, match="one list of magnets"):
        page | figure


def test_wrong_values_and_maps_of_words_as_queries_are_refused():
    with pytest.raises(MethodError, match="teaser, page"):
        Magnets("pages")
    with pytest.raises(MethodError, match="blank"):
        Magnets(words=("a", " "))
    with pytest.raises(MethodError, match="word-to-image"):
        Magnets()(made_maps())


def test_an_expression_without_a_word_left_is_refused():
    maps = text_maps(text_words(("left", "spatial"), ("</s>", "special"), ("a", "magnet")), np.zeros((3, 2, 2)))
    maps, _ = StopWords(kinds=(WordKind.STOP, WordKind.SPATIAL))(maps)
    with pytest.raises(ExpressionError, match="name one"):
        Combine()(maps)


def test_words_of_several_pieces_are_summed_or_averaged():
    words = list(text_words(("gold", "content"), ("fish", "content"), ("</s>", "special")))
    words[0] = replace(words[0], positions=(0, 7, 8))
    maps = text_maps(words, np.random.default_rng(2).normal(size=(3, 2, 3)))
    gold, fish, _ = maps.values[0, 0, 0]
    for how, expected in (("sum", gold + fish), ("mean", gold / 3 + fish), ("max", np.maximum(gold, fish))):
        result, report = Combine(how)(maps)
        np.testing.assert_allclose(result.values[0, 0, 0, 0], expected, rtol=1e-5)
        assert report.data["words"] == ["gold", "fish"]
