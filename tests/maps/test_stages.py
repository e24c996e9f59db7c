"""What every stage declares holds for what it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import made_maps, suited, with_background

from grounding.errors import MethodError
from grounding.joint_spec import MagnetWords
from grounding.maps.combine import Combine
from grounding.maps.contrast import Difference, LayerByContrast, LeastSquares, OtherWords, Ratio
from grounding.maps.ensemble import JoinModels
from grounding.maps.head_noun import HeadNoun
from grounding.maps.heads import HeadMaxImage, HeadMean, HeadMeanMax
from grounding.maps.layers import LayerChoice, LayerMean
from grounding.maps.linear import Unsigned
from grounding.maps.logits import LogitLens
from grounding.maps.magnets import Magnets
from grounding.maps.refine import BiasedCut, Propagate
from grounding.maps.selection import HeadsByEntropy, HeadsFixed
from grounding.maps.sinks import ColumnOutliers, ResidualSinks
from grounding.maps.smooth import Smooth, SmoothRanks
from grounding.maps.spatial_bias import SpatialBias
from grounding.maps.text_sinks import TextSinks
from grounding.maps.words import Rows, StopWords
from grounding.methods import STAGES
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps

EVERY = [
    StopWords(), Rows(last=1), Magnets(), TextSinks(), HeadNoun(), SpatialBias(), Combine(), JoinModels(),
    LayerChoice(start=0.5), LayerMean(), Unsigned(), HeadMean(), HeadMeanMax(), HeadMaxImage(),
    HeadsFixed(pairs=((1, 2), (3, 0))), HeadsByEntropy(count=2), ColumnOutliers(), ResidualSinks(tau=4.0),
    Ratio("x"), Difference("x"), LeastSquares("x"), OtherWords(), LayerByContrast(background="blank"),
    LogitLens(), BiasedCut(), Propagate(), Smooth(), SmoothRanks(),
]  # fmt: skip
READERS = ("flow", "linear-layers")
"""Stages that only check which kind of recording they were given; they have tests of their own."""

MEAN_OF_STEPS = (
    "heads-entropy",
    "sinks-columns",
    "text-sinks",
    "rows",
    "contrast-ratio",
    "contrast-layer",
    "logit-lens",
)
AXES = {"steps": 0, "layers": 1, "heads": 2, "words": 3}


def named(stage) -> str:
    return stage.name


def test_every_registered_stage_is_among_these() -> None:
    assert [stage.name for stage in EVERY] == [name for name in STAGES if name not in READERS]


@pytest.mark.parametrize("stage", EVERY, ids=named)
def test_a_stage_spends_what_it_declares_and_keeps_the_rest(stage) -> None:
    maps = suited(with_background(made_maps(steps=2)), stage)
    result, _ = stage(maps)
    assert (result.background is None) == ("background" in stage.spends)
    for axis, index in AXES.items():
        assert (result.values.shape[index] == 1) == (axis in stage.spends), axis
    assert (result.layers == ()) == ("layers" in stage.spends)
    assert result.values.dtype == np.float32


@pytest.mark.parametrize("stage", EVERY, ids=named)
def test_text_to_text_weights_follow_the_maps_axes(stage) -> None:
    """Layers, heads and words that a stage keeps or averages are kept or averaged there too."""
    maps = suited(with_background(made_maps(steps=2)), stage)
    words = len(maps.words)
    # The weight names its layer, head and words: 1000 l + 100 h + 10 q + k.
    between = np.add.outer(np.add.outer(1000 * np.arange(4), 100 * np.arange(3)), np.zeros((words, words)))
    between = between + 10 * np.arange(words)[:, None] + np.arange(words)
    maps = replace(maps, text_to_text=np.stack([between, between]).astype(np.float32))
    result, _ = stage(maps)
    found = result.text_to_text
    if "words" in stage.spends or stage.name in ("heads-mean-max", "heads-max-image", "logit-lens"):
        assert found is None
        return
    assert found is not None
    assert found.shape == (*result.values.shape[:4], len(result.words))
    at = np.array([maps.words.index(word) for word in result.words])
    within = 10 * (at - at[0])[:, None] + at - at[0]
    np.testing.assert_allclose(found - found[..., :1, :1], np.broadcast_to(within, found.shape), atol=1e-3)
    if stage.name == "layers-select":
        np.testing.assert_allclose(found[0, :, 0, 0, 0], between[2:, 0, at[0], at[0]])
    if stage.name == "heads-fixed":
        np.testing.assert_allclose(found[0, 0, 0, 0, 0], (between[1, 2, 0, 0] + between[3, 0, 0, 0]) / 2)


@pytest.mark.parametrize("stage", EVERY, ids=named)
def test_what_a_stage_does_not_need_may_be_missing(stage) -> None:
    maps = suited(with_background(made_maps()), stage)
    spec = stage.needs(4)

    def recorded(one: AttentionMaps) -> AttentionMaps:
        at = list(range(4) if spec.layers is None else spec.layers)
        return replace(
            one,
            values=one.values[:, at],
            layers=tuple(at),
            layer_count=4,
            head_statistics={
                name: table[at] for name, table in one.head_statistics.items() if name in spec.head_statistics
            },
            residual_sinks=one.residual_sinks[at] if spec.residual_sinks else None,
            features=one.features if spec.features else None,
            logits=one.logits if spec.logits else None,
            background=None,
        )

    given = recorded(maps)
    if spec.has_background:
        given = replace(given, background=recorded(maps.background))
    else:
        maps = replace(maps, background=None)
    np.testing.assert_allclose(stage(given)[0].values, stage(maps)[0].values, rtol=1e-6)


@pytest.mark.parametrize("stage", EVERY, ids=named)
def test_maps_that_a_stage_has_no_meaning_for_are_refused(stage) -> None:
    maps = with_background(made_maps())
    turned = suited(maps, Magnets())
    fit = suited(maps, stage)
    signed = replace(fit, signed=True, values=fit.values - 0.01)
    cases = ((maps, "word-to-image"), (turned, "image-to-word"))
    for other, ok in (*((one, way in stage.directions) for one, way in cases), (signed, stage.takes_signed)):
        if ok:
            assert np.isfinite(stage(other)[0].values).all()
        else:
            with pytest.raises(MethodError, match=f"stage '{stage.name}' .*: leave the stage out"):
                stage(other)


def test_what_is_averaged_may_be_signed_and_what_is_a_share_may_not() -> None:
    assert {stage.name for stage in EVERY if stage.takes_signed} == {
        "stop-words", "head-noun", "layers-select", "layers-mean", "unsigned", "heads-mean", "smooth",
    }  # fmt: skip
    assert {stage.name for stage in EVERY if "image-to-word" not in stage.directions} == {
        "heads-mean-max", "heads-max-image", "heads-entropy", "sinks-columns", "sinks-residual", "contrast-words",
        "logit-lens", "refine-cut", "refine-propagate", "ensemble",
    }  # fmt: skip
    assert {stage.name for stage in EVERY if "word-to-image" not in stage.directions} == {
        "magnets", "text-sinks", "ensemble",
    }  # fmt: skip
    assert {stage.name for stage in EVERY if "model-to-image" in stage.directions} == {"ensemble"}


@settings(max_examples=10)
@pytest.mark.parametrize(
    "stage",
    [s for s in EVERY if s.name not in MEAN_OF_STEPS],
    ids=named,
)
@given(st.integers(0, 2**32 - 1))
def test_steps_do_not_mix(stage, seed) -> None:
    """Stages that take no decision over the steps' mean treat each step as if it were alone."""
    maps = replace(suited(with_background(made_maps(seed, steps=3), seed + 1), stage), text_to_text=None)

    def step(index: int) -> AttentionMaps:
        behind = replace(maps.background, values=maps.background.values[index : index + 1], text_to_text=None)
        return replace(maps, values=maps.values[index : index + 1], background=behind)

    together = stage(maps)[0].values
    for index in range(3):
        np.testing.assert_allclose(together[index : index + 1], stage(step(index))[0].values, rtol=1e-5, atol=1e-8)


specs = st.builds(
    RecordSpec,
    layers=st.none() | st.lists(st.integers(0, 5), min_size=1, max_size=4).map(lambda x: tuple(sorted(set(x)))),
    heads=st.none() | st.lists(st.integers(0, 5), min_size=1, max_size=4).map(lambda x: tuple(sorted(set(x)))),
    reduce=st.sampled_from(["none", "heads", "layers", "both"]),
    head_statistics=st.lists(st.sampled_from(["max_all", "max_image"]), unique=True).map(lambda x: tuple(sorted(x))),
    residual_sinks=st.booleans(),
    magnets=st.sampled_from([None, MagnetWords(("a",))]),
    background_prompt=st.sampled_from([None, "Describe."]),
    budget_bytes=st.integers(1, 1000),
)


@given(specs, specs, specs)
def test_the_union_of_specs_is_a_union(a: RecordSpec, b: RecordSpec, c: RecordSpec) -> None:
    def plain(spec: RecordSpec) -> RecordSpec:
        return replace(spec, head_statistics=tuple(sorted(spec.head_statistics)))

    assert plain(a | a) == a
    assert plain(a | b) == plain(b | a)
    assert plain((a | b) | c) == plain(a | (b | c))
    assert (a | RecordSpec()).layers is None
    assert (a | b).residual_sinks >= a.residual_sinks
    assert set((a | b).head_statistics) == {*a.head_statistics, *b.head_statistics}


def test_a_recording_has_one_background_prompt() -> None:
    with pytest.raises(ValueError, match="one background prompt, got 'a' and 'b'"):
        RecordSpec(background_prompt="a") | RecordSpec(background_prompt="b")
