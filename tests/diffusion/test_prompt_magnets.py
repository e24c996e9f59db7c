"""Magnets behind a prompt, on every family's real classes at tiny size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_sources import tiny_source

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

import torch

from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.generation import record_generation
from grounding.diffusion.registry import PIPELINES
from grounding.errors import ModelError, RecordingError
from grounding.joint_spec import MagnetWords
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, WordKind

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
EXPRESSION = "the red elephant"
WORDS = ["the", "red", "elephant"]
JOINED = {"FluxPipeline", "ChromaPipeline", "StableDiffusion3Pipeline", "WanPipeline", "LTXPipeline", "MochiPipeline"}


def read(source: DiffusionSource, spec: RecordSpec, expression: str = EXPRESSION) -> AttentionMaps:
    if source.video:
        return source.clip_maps([[PICTURE] * 7], [expression], spec)[0]
    return source.maps([PICTURE], [expression], spec)[0]


def magnets_of(maps: AttentionMaps) -> list[str]:
    return [word.text for word in maps.words if word.kind is WordKind.MAGNET]


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def source(request: pytest.FixtureRequest) -> DiffusionSource:
    return tiny_source(request.param)


@pytest.mark.parametrize("encoding", ["separate", "inline"])
def test_every_token_belongs_to_one_word_and_rows_sum_to_one(source: DiffusionSource, encoding: str) -> None:
    spec = RecordSpec(magnets=MagnetWords(("with", "pink"), encoding))  # type: ignore[arg-type]
    if encoding == "separate" and type(source.pipe).__name__ not in JOINED:
        with pytest.raises(ModelError, match="encoding: inline"):
            read(source, spec)
        return
    plain, maps = read(source, RecordSpec()), read(source, spec)
    np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-5)
    assert [w.text for w in maps.words if w.kind not in (WordKind.SPECIAL, WordKind.MAGNET)] == WORDS
    own = {word.text: word for word in plain.words if word.kind is not WordKind.SPECIAL}
    for word in maps.words:
        if word.text in own and word.kind is not WordKind.SPECIAL:
            assert (word.span, word.kind, len(word.positions)) == (
                own[word.text].span, own[word.text].kind, len(own[word.text].positions),
            )  # fmt: skip
    positions = [p for word in maps.words for p in word.positions]
    assert len(positions) == len(set(positions))
    assert all(word.span == (0, 0) for word in maps.words if word.kind is WordKind.MAGNET)
    if encoding == "inline":
        assert magnets_of(maps) == ["with", "pink"]
    else:
        added = [t.piece for magnet in ("with", "pink") for t in source.with_reading().tokens(magnet)]
        assert magnets_of(maps) == added
    # The network has seen them: the map is not the plain one with other words left out.
    kept = maps.values[:, :, :, [w.kind is own.get(w.text, w).kind and w.text in own for w in maps.words]]
    before = plain.values[:, :, :, [w.kind is own.get(w.text, w).kind and w.text in own for w in plain.words]]
    ratio = kept.sum(axis=3) / before.sum(axis=3)
    assert ratio.std() > 1e-6


@pytest.fixture(scope="module")
def flux() -> DiffusionSource:
    return tiny_source("FluxPipeline")


def test_separate_magnets_are_the_states_of_the_word_alone(flux: DiffusionSource) -> None:
    magnets = MagnetWords(("with", "pink"))
    prompt = flux.prompt(EXPRESSION)
    joined = flux.magnets.encode(prompt, magnets)
    alone = [flux.encode(text) for text in (prompt.text, "with", "pink")]
    assert torch.equal(
        joined.inputs["encoder_hidden_states"], torch.cat([one.inputs["encoder_hidden_states"] for one in alone], 1)
    )
    assert len(joined.inputs["txt_ids"]) == len(joined.tokens) == sum(len(one.tokens) for one in alone)
    assert torch.equal(joined.inputs["pooled_projections"], alone[0].inputs["pooled_projections"])


def test_a_content_magnet_that_the_expression_holds_is_skipped(flux: DiffusionSource) -> None:
    def found(texts: tuple[str, ...], **options: bool) -> str:
        magnets = MagnetWords(texts, "inline", **options)
        return " ".join(magnets_of(read(flux, RecordSpec(magnets=magnets), "the Pink elephant")))

    assert found(("with", "the", "pink")) == "with the"
    assert found(("with", "the", "pink"), skip_content=False) == "with the pink"
    assert found(("pink",)) == ""


@pytest.mark.parametrize("encoding", ["separate", "inline"])
def test_words_that_repeat_and_magnets_that_repeat_them_are_told_apart(flux: DiffusionSource, encoding: str) -> None:
    magnets = MagnetWords(("the", "with", "the"), encoding)  # type: ignore[arg-type]
    maps = read(flux, RecordSpec(magnets=magnets), "the red dog with the red elephants")
    own = [word for word in maps.words if word.kind not in (WordKind.SPECIAL, WordKind.MAGNET)]
    assert [word.text for word in own] == ["the", "red", "dog", "with", "the", "red", "elephants"]
    assert len({word.span for word in own}) == 7
    assert [text.strip("▁") for text in magnets_of(maps) if text not in ("</s>", "▁")] == ["the", "with", "the"]
    assert max(p for word in own for p in word.positions) < min(
        p for word in maps.words if word.kind is WordKind.MAGNET for p in word.positions
    )


def test_padding_stays_where_the_reading_says(flux: DiffusionSource) -> None:
    spec = RecordSpec(magnets=MagnetWords(("with",)))
    padded = flux.with_reading(pads="keep", text_length=24)
    maps = read(padded, spec)
    assert magnets_of(maps) == magnets_of(read(flux, spec))
    assert sum(word.text == padded.tokenizer.pad_token for word in maps.words) > 0
    np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-5)
    masked = read(flux.with_reading(pads="mask", text_length=24), spec)
    assert magnets_of(masked) == magnets_of(maps)


def test_a_pipeline_that_generates_takes_no_magnets(flux: DiffusionSource) -> None:
    spec = RecordSpec(magnets=MagnetWords(("with",)))
    with pytest.raises(RecordingError, match="encodes its own prompt"), record_generation(flux, EXPRESSION, spec):
        pass


def test_magnets_are_words() -> None:
    with pytest.raises(RecordingError, match="blank"):
        MagnetWords(("a", " "))
    with pytest.raises(RecordingError, match="separate, inline"):
        MagnetWords(("a",), "joined")  # type: ignore[arg-type]
