"""Sinks masked or redirected inside FLUX, which uses diffusers' dispatcher, and SD3, which calls torch's function."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sources import tiny_source
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from explicit_attention import explicit, watched

from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.generation import record_generation
from grounding.errors import ExpressionError, ModelError, RecordingError
from grounding.joint_spec import MagnetWords, SinkEdit, TextSinkRule
from grounding.maps.text_sinks import TextSinks
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, WordKind

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
EXPRESSION = "the red elephant"
# On random weights all tokens get about the same; this takes those above the mean.
LOOSE = TextSinkRule(share=1.0, variation=9.0, between=0.0, start=0.0)
NEVER = replace(LOOSE, share=99.0)
MAGNETS = MagnetWords(("with", "pink"))
SPEC = RecordSpec(magnets=MAGNETS)


@pytest.fixture(scope="module", params=["FluxPipeline", "StableDiffusion3Pipeline"])
def source(request: pytest.FixtureRequest) -> DiffusionSource:
    return tiny_source(request.param)


def read(source: DiffusionSource, spec: RecordSpec, expression: str = EXPRESSION) -> AttentionMaps:
    return source.maps([PICTURE], [expression], spec)[0]


def redistributed(
    how: str, queries: list[int], sinks: list[int], magnets: list[int], logits: Tensor, weights: Tensor
) -> Tensor:
    """Attention to sinks given to all keys or to the magnets, as the formulas say."""
    changed = weights.clone()
    rows = changed[:, queries]
    lost = rows[..., sinks].sum(-1, keepdim=True)
    if how == "mask":
        rows = rows / (1 - lost)
    else:
        rows[..., magnets] *= 1 + lost / rows[..., magnets].sum(-1, keepdim=True)
    rows[..., sinks] = 0
    changed[:, queries] = rows
    return changed


@pytest.mark.parametrize("queries", ["image", "all"])
@pytest.mark.parametrize("how", ["mask", "redirect"])
def test_the_network_runs_as_one_whose_softmax_is_written_out(source: DiffusionSource, how: str, queries: str) -> None:
    spec = replace(SPEC, sinks=SinkEdit(how, LOOSE, queries=queries))  # type: ignore[arg-type]
    with watched(source) as runs:
        plain, maps = read(source, SPEC), read(source, spec)
    [(_, unedited), (_, first), (given, edited)] = runs
    assert torch.equal(unedited, first)
    assert torch.equal(given["hidden_states"], runs[0][0]["hidden_states"])  # the same noise
    assert maps.sinks is not None
    taken = [word for word, share in zip(maps.words, maps.sinks.edited, strict=True) if share]
    assert 0 < len(taken) < len(maps.words)
    sinks = [p for word in taken for p in word.positions]
    magnets = [p for word in maps.words if word.kind is WordKind.MAGNET for p in word.positions]
    if how == "redirect":
        assert not set(sinks) & set(magnets)
    count = len(maps.keys) + len(source.magnets.encode(source.prompt(EXPRESSION), MAGNETS).tokens)
    cells = maps.keys.tolist() if queries == "image" else list(range(count))
    with explicit(source, partial(redistributed, how, cells, sinks, magnets)) as processors, torch.inference_mode():
        expected = source.transformer(**given)[0]
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-4)
    assert (edited - unedited).abs().max() > 1e-4
    text = [p for word in maps.words for p in word.positions]
    for layer, processor in enumerate(processors):
        weights = processor.weights[0][:, maps.keys][..., text]
        weights = weights / weights.sum(-1, keepdim=True)
        for row, word in enumerate(maps.words):
            own = weights[..., [text.index(p) for p in word.positions]].sum(-1)
            np.testing.assert_allclose(maps.values[0, layer, :, row], own.numpy(), atol=1e-5)
    assert np.abs(maps.values - plain.values).max() > 1e-3


def strongest(count: int, cells: list[int], text: list[int], logits: Tensor, weights: Tensor) -> Tensor:
    """The text keys with the largest mean weight over cells are masked, per head."""
    mass = weights[:, cells][..., text].mean(1)  # [H, T]
    changed = logits.clone()
    for head, best in enumerate(mass.argsort(dim=1, descending=True)[:, :count].tolist()):
        for query in cells:
            changed[head, query, [text[i] for i in best]] = -torch.inf
    return changed.softmax(-1)


def test_the_strongest_keys_of_every_call_are_found_in_one_run(source: DiffusionSource) -> None:
    with watched(source) as runs:
        maps = read(source, RecordSpec(sinks=SinkEdit("mask", strongest=2)))
    [(given, edited)] = runs
    text = [p for word in maps.words for p in word.positions]
    with explicit(source, partial(strongest, 2, maps.keys.tolist(), text)), torch.inference_mode():
        expected = source.transformer(**given)[0]
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-4)
    assert maps.sinks is not None
    assert maps.sinks.evidence is None
    tokens = np.array([len(word.positions) for word in maps.words])
    assert (maps.sinks.edited * tokens).sum() == pytest.approx(2, abs=1e-5)
    result, report = TextSinks(handling="mask", strongest=2)(maps)
    assert result is maps
    assert set(report.data["edited"]) <= {word.text for word in maps.words}
    # A key always stays for the softmax over text.
    every = read(source, RecordSpec(sinks=SinkEdit("mask", strongest=99)))
    np.testing.assert_allclose(every.values.sum(axis=3), 1, atol=1e-5)


def test_only_later_blocks_are_edited_where_asked(source: DiffusionSource) -> None:
    plain = read(source, SPEC)
    late = read(source, replace(SPEC, sinks=SinkEdit("mask", LOOSE, start=0.6)))
    first_edited = 2
    np.testing.assert_array_equal(late.values[:, :first_edited], plain.values[:, :first_edited])
    assert np.abs(late.values[:, first_edited:] - plain.values[:, first_edited:]).max() > 1e-3


@pytest.mark.parametrize("how", ["mask", "redirect"])
def test_without_sinks_nothing_changes_and_nothing_runs_twice(source: DiffusionSource, how: str) -> None:
    with watched(source) as runs:
        plain, maps = read(source, SPEC), read(source, replace(SPEC, sinks=SinkEdit(how, NEVER)))  # type: ignore[arg-type]
    [(_, unedited), (_, edited)] = runs
    assert torch.equal(unedited, edited)
    np.testing.assert_array_equal(maps.values, plain.values)
    assert maps.text_to_text is None
    assert maps.sinks is not None
    assert not maps.sinks.edited.any()
    assert TextSinks(handling="mask", share=99)(maps)[1].removed == 0


def test_the_stage_drops_what_was_edited_and_reports_the_unedited_run(source: DiffusionSource) -> None:
    stage = TextSinks(share=1.0, variation=9.0, between=0.0, start=0.0, handling="mask", edit_start=0.0)
    plain, maps = read(source, SPEC), read(source, SPEC | stage.needs(source.layer_count))
    result, report = stage(maps)
    left, before = TextSinks(share=1.0, variation=9.0, between=0.0, start=0.0)(plain)
    assert result.words == left.words
    assert report.data == before.data
    assert report.removed == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(result.values.sum(axis=3), 1, atol=1e-5)


def test_what_cannot_be_edited_is_refused(source: DiffusionSource) -> None:
    redirect = SinkEdit("redirect", LOOSE)
    with pytest.raises(ExpressionError, match="holds every magnet"):
        read(source, RecordSpec(magnets=MagnetWords(("red",)), sinks=redirect))
    with (
        pytest.raises(RecordingError, match="leave edits of sinks out"),
        record_generation(source, EXPRESSION, RecordSpec(sinks=redirect)),
    ):
        pass


def test_cross_attention_is_edited_without_the_test_between_words() -> None:
    wan = tiny_source("WanPipeline")

    def clip(sinks: SinkEdit | None) -> AttentionMaps:
        return wan.clip_maps([[PICTURE] * 7], [EXPRESSION], RecordSpec(sinks=sinks))[0]

    plain, masked = clip(None), clip(SinkEdit("mask", LOOSE))
    assert masked.sinks is not None
    taken = masked.sinks.edited > 0
    assert taken.any()
    assert not masked.values[:, :, :, taken].any()
    # The first block's attention on the others is what it was, renormalised.
    kept = plain.values[0, 0][:, ~taken]
    np.testing.assert_allclose(masked.values[0, 0][:, ~taken], kept / kept.sum(axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(ModelError, match="between"):
        clip(SinkEdit("mask", TextSinkRule()))
