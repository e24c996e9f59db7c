from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_text_maps import text_maps, text_words

from grounding.errors import MethodError
from grounding.joint_spec import SinkEdit
from grounding.maps.text_sinks import TextSinks, measure
from grounding.record_spec import RecordSpec
from grounding.types import EditedSinks

WORDS = text_words(("▁", "special"), ("the", "stop"), ("star", "content"), ("left", "spatial"), ("</s>", "special"))
SINK, OBJECT = 0, 2


def planted(sink=SINK):
    """Random logits with a large constant column for the sink, and a blob for the object."""
    logits = np.random.default_rng(0).normal(scale=0.3, size=(5, 8, 8))
    logits[sink] = 3.5
    logits[OBJECT if sink != OBJECT else 1, 2:4, 2:4] += 3
    between = np.random.default_rng(1).uniform(0.5, 1.5, size=(5, 5))
    between[:, sink] = 9
    return logits, between / between.sum(axis=1, keepdims=True)


def flags(report):
    return {entry["text"]: entry["sink"] for entry in report.data["words"]}


def test_a_planted_sink_is_found_and_a_planted_object_is_not():
    logits, between = planted()
    maps = text_maps(WORDS, logits, between)
    result, report = TextSinks()(maps)
    assert flags(report) == {"▁": True, "the": False, "star": False, "left": False, "</s>": False}
    assert [word.text for word in result.words] == ["the", "star", "left", "</s>"]
    np.testing.assert_array_equal(result.values, maps.values[:, :, :, 1:])
    assert result.text_to_text.shape[-2:] == (4, 4)
    assert report.removed == pytest.approx(maps.values[:, :, :, SINK].sum() / maps.values.sum(), rel=1e-4)


def test_the_order_of_tokens_changes_nothing():
    logits, between = planted()
    order = [3, 0, 4, 2, 1]
    maps = text_maps(WORDS, logits, between)
    other = text_maps([WORDS[i] for i in order], logits[order], between[np.ix_(order, order)])
    first, second = TextSinks()(maps)[1], TextSinks()(other)[1]
    assert flags(first) == flags(second)
    by_text = {entry["text"]: entry for entry in second.data["words"]}
    for entry in first.data["words"]:
        assert entry == pytest.approx(by_text[entry["text"]], abs=2e-4)


def test_each_test_is_needed():
    logits, between = planted()
    maps = text_maps(WORDS, logits, between)
    assert flags(TextSinks(share=4.9)(maps)[1])["▁"] is False
    assert flags(TextSinks(variation=0.01)(maps)[1])["▁"] is False
    even = replace(maps, text_to_text=np.full_like(maps.text_to_text, 0.2))
    assert flags(TextSinks()(even)[1])["▁"] is False
    assert flags(TextSinks(between=0)(replace(maps, text_to_text=None))[1])["▁"] is True


def test_a_word_on_itself_is_no_evidence():
    logits, _ = planted()
    maps = text_maps(WORDS, logits, np.eye(5) * 0.9 + 0.02)
    assert not any(flags(TextSinks()(maps)[1]).values())


def test_a_word_of_many_pieces_is_judged_by_the_piece():
    logits, between = planted()
    pieces = replace(WORDS[SINK], positions=(0, 7, 8, 9, 10, 11, 12))
    maps = text_maps((pieces, *WORDS[1:]), logits, between)
    assert flags(TextSinks()(maps)[1])["▁"] is False


def test_the_deepest_layers_decide_where_they_are_there():
    logits, between = planted()
    flat = np.zeros_like(logits)
    early = text_maps(WORDS, np.stack([logits, flat, flat]), between, layers=(3, 7, 8), layer_count=9)
    late = text_maps(WORDS, np.stack([flat, logits, logits]), between, layers=(3, 7, 8), layer_count=9)
    assert flags(TextSinks()(early)[1])["▁"] is False
    assert flags(TextSinks()(late)[1])["▁"] is True
    only = text_maps(WORDS, logits, between, layers=(3,), layer_count=9)
    assert flags(TextSinks()(only)[1])["▁"] is True


def test_a_content_word_that_is_a_sink_goes_unless_it_is_the_last_one():
    logits, between = planted(sink=OBJECT)
    maps = text_maps(WORDS, logits, between)
    result, report = TextSinks()(maps)
    assert flags(report)["star"] is True
    assert "star" in [word.text for word in result.words]
    more = text_words(
        ("▁", "special"), ("red", "content"), ("star", "content"), ("left", "spatial"), ("</s>", "special")
    )
    result, _ = TextSinks()(text_maps(more, logits, between))
    assert [word.text for word in result.words] == ["▁", "red", "left", "</s>"]


def test_renormalised_weights_are_a_softmax_without_the_sinks():
    logits, between = planted()
    result, _ = TextSinks(handling="renormalise")(text_maps(WORDS, logits, between))
    np.testing.assert_allclose(result.values, text_maps(WORDS[1:], logits[1:]).values, rtol=1e-4)


def test_an_edit_of_the_network_is_asked_for_and_its_evidence_is_reported():
    stage = TextSinks(handling="mask", share=1.5, edit_start=0.5, queries="all")
    assert stage.needs(9) == RecordSpec(sinks=SinkEdit("mask", stage.rule, 0, "all", 0.5))
    assert TextSinks(handling="redirect").needs(9).sinks.start == 0.67
    logits, between = planted()
    maps = text_maps(WORDS, logits, between)
    evidence = measure(maps, stage.rule)
    edited = np.zeros(5, np.float32)
    edited[SINK] = 1
    plain = text_maps(WORDS[1:], logits[1:]).values
    values = np.concatenate([np.zeros_like(plain[:, :, :, :1]), plain], axis=3)
    masked = replace(maps, values=values, text_to_text=None, sinks=EditedSinks(edited, evidence))
    result, report = stage(masked)
    assert [word.text for word in result.words] == ["the", "star", "left", "</s>"]
    assert result.sinks == EditedSinks(edited[1:], evidence[1:])
    assert report.data == TextSinks(share=1.5)(maps)[1].data
    assert report.removed == 0
    with pytest.raises(MethodError, match="were recorded without"):
        stage(maps)


def test_what_is_needed_is_asked_for():
    assert TextSinks().needs(9) == RecordSpec(text_to_text=True)
    assert TextSinks(between=0).needs(9) == RecordSpec()
    with pytest.raises(MethodError, match="between: 0"):
        TextSinks()(text_maps(WORDS, planted()[0]))
    with pytest.raises(MethodError, match="share > 0"):
        TextSinks(share=0)
