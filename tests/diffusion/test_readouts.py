"""ConceptAttention and DAAM's average, against streams and averages written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

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
from grounding.diffusion.registry import PIPELINES
from grounding.errors import ExpressionError, MethodError, ModelError, RecordingError
from grounding.joint_spec import Readout, SinkEdit
from grounding.methods import load_method
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, WordKind

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
EXPRESSION = "the red elephant"
OUTPUTS = Readout("outputs")
STREAM = Readout("outputs", concepts="stream", background=("tree", "floor"), pooled="zero")
BOTH = ["FluxPipeline", "StableDiffusion3Pipeline"]
CROSS = {"WanPipeline", "LTXPipeline"}


def read(source: DiffusionSource, readout: Readout | None, **options: Any) -> AttentionMaps:
    spec = RecordSpec(readout=readout, **options)
    if source.video:
        return source.clip_maps([[PICTURE] * 7], [EXPRESSION], spec)[0]
    return source.maps([PICTURE], [EXPRESSION], spec)[0]


def products(output: Tensor, cells: list[int], words: list[int], unit: bool = False, by: float = 1.0) -> Tensor:
    """[X, T] softmax over words of the products of outputs [N, C]."""
    keys = output[words]
    keys = keys / keys.norm(dim=1, keepdim=True) if unit else keys
    return (output[cells] @ keys.T / by).softmax(-1)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("unit", "by"), [(False, 1.0), (True, 0.25)])
def test_outputs_of_the_prompts_words_are_multiplied(name: str, unit: bool, by: float) -> None:
    source = tiny_source(name)
    with watched(source) as runs:
        maps = read(source, replace(OUTPUTS, unit=unit, temperature=by))
    assert maps.values.shape[1:3] == (source.layer_count, 1)
    with explicit(source, lambda logits, weights: weights) as processors, torch.inference_mode():
        source.transformer(**runs[0][0])
    text = [p for word in maps.words for p in word.positions]
    for layer, processor in enumerate(processors):
        expected = products(processor.outputs[0], maps.keys.tolist(), text, unit, by)
        for row, word in enumerate(maps.words):
            own = expected[:, [text.index(p) for p in word.positions]].sum(-1)
            np.testing.assert_allclose(maps.values[0, layer, 0, row], own.numpy(), atol=1e-5)


def third_stream(concepts: list[int], text: list[int], logits: Tensor, weights: Tensor) -> Tensor:
    """Image and prompt attend to each other, concepts to the image and to concepts."""
    prompt = [p for p in text if p not in concepts]
    hidden = torch.zeros(logits.shape[-2:], dtype=torch.bool)
    hidden[:, concepts] = True
    hidden[concepts] = False
    for row in concepts:
        hidden[row, prompt] = True
    return logits.masked_fill(hidden, -torch.inf).softmax(-1)


@pytest.mark.parametrize("pads", ["drop", "keep"])
@pytest.mark.parametrize("name", BOTH)
def test_concepts_run_beside_the_prompt_and_leave_the_image_as_it_is(name: str, pads: str) -> None:
    source = tiny_source(name).with_reading(pads=pads, text_length=20)
    with watched(source) as runs:
        maps = read(source, STREAM)
    assert [(word.text, word.kind) for word in maps.words] == [
        ("red", WordKind.CONTENT), ("elephant", WordKind.CONTENT), ("tree", WordKind.MAGNET), ("floor", WordKind.MAGNET)
    ]  # fmt: skip
    assert [word.is_head for word in maps.words] == [False, True, False, False]
    assert [EXPRESSION[slice(*word.span)] for word in maps.words[:2]] == ["red", "elephant"]
    [(given, image)] = runs
    concepts = [p for word in maps.words for p in word.positions]
    assert len(set(concepts)) == 4
    own = source.encode(EXPRESSION)
    # Padding stays last.
    length = len(own.tokens)
    count = max(i for i, token in enumerate(own.tokens) if token.role != "pad") + 1
    assert (count < length) == (pads == "keep")
    start = 0 if source.attention == "text-first" else len(maps.keys)
    assert concepts == list(range(start + count, start + count + 4))
    # Each concept is the first token of its word alone; the prompt's states are what they are without concepts.
    states = given["encoder_hidden_states"][0]
    kept = [*range(count), *range(count + 4, length + 4)]
    torch.testing.assert_close(states[kept], own.inputs["encoder_hidden_states"][0].detach())
    for offset, word in enumerate(maps.words):
        alone = source.with_reading(pads="drop").encode(word.text)
        first = next(i for i, token in enumerate(alone.tokens) if token.role == "text")
        torch.testing.assert_close(states[count + offset], alone.inputs["encoder_hidden_states"][0, first].detach())
    assert not given["pooled_projections"].any()
    text = list(range(start, start + length + 4))
    with (
        explicit(source, partial(third_stream, concepts, text)) as processors,
        torch.inference_mode(),
    ):
        expected = source.transformer(**given)[0]
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-4)
    for layer, processor in enumerate(processors):
        found = products(processor.outputs[0], maps.keys.tolist(), concepts).T
        np.testing.assert_allclose(maps.values[0, layer, 0], found.numpy(), atol=1e-5)
    # The image is that of the prompt alone.
    alone_given = {**given, "encoder_hidden_states": states[None, kept]}
    if "txt_ids" in given:
        alone_given["txt_ids"] = given["txt_ids"][kept]
    with torch.inference_mode():
        plain = source.transformer(**alone_given)[0]
    torch.testing.assert_close(image, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_family_reads_outputs_or_says_why_not(name: str) -> None:
    source = tiny_source(name)
    if name in CROSS:
        with pytest.raises(ModelError, match="no attention outputs"):
            read(source, OUTPUTS)
    else:
        maps = read(source, OUTPUTS)
        np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-5)
        assert maps.values.std() > 0
    if name not in BOTH:
        with pytest.raises(ModelError, match="no place for concepts"):
            read(source, STREAM)


def test_background_concepts_outside_a_closed_vocabulary_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_source("FluxPipeline")
    monkeypatch.setattr(type(source.magnets), "knows", lambda self, text: text == "floor")
    assert [word.text for word in read(source, STREAM).words] == ["red", "elephant", "floor"]
    with pytest.raises(MethodError, match="none of the background concepts tree"):
        read(source, replace(STREAM, background=("tree",)))


@pytest.mark.parametrize("name", [*BOTH, "WanPipeline"])
def test_daam_is_the_plain_mean_over_blocks_heads_and_noise_levels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, method = tiny_source(name), load_method("daam")
    calls: list[tuple[Tensor, Tensor]] = []
    with kept_calls(source, monkeypatch, calls):
        maps = read(source, method.readout, **{"reduce": "heads"})
    levels = method.readout.levels
    assert maps.values.shape[:3] == (len(levels), source.layer_count, 1)
    # Wan's blocks attend within the image first; SD3's first block has a second attention, on the image alone.
    per_run = len(calls) // len(levels)
    chosen = {
        "FluxPipeline": range(per_run), "StableDiffusion3Pipeline": [0, *range(2, per_run)],
        "WanPipeline": range(1, per_run, 2),
    }[name]  # fmt: skip
    cells = len(maps.keys)
    tokens = len(source.encode(EXPRESSION).tokens)
    image = slice(tokens, None) if name == "FluxPipeline" else slice(0, cells)
    start = {"FluxPipeline": 0, "StableDiffusion3Pipeline": cells, "WanPipeline": 0}[name]
    offset = start if name != "WanPipeline" else cells
    text = sorted(p - offset + start for word in maps.words for p in word.positions)
    found = []
    for run in range(len(levels)):
        for index in chosen:
            query, key = calls[run * per_run + index]
            logits = query[0, :, image] @ key[0][:, text].transpose(-1, -2) * query.shape[-1] ** -0.5
            found.append(logits.softmax(-1).mean(0))
    mean = torch.stack(found).mean(0)  # [X, T]
    expected = torch.zeros(cells, dtype=torch.float64)
    for word in maps.words:
        if word.kind is WordKind.CONTENT:
            expected += mean[:, [text.index(p - offset + start) for p in word.positions]].mean(-1)
    for stage in method.stages:
        maps, _ = stage(maps)
    np.testing.assert_allclose(maps.values.mean(axis=0).ravel(), expected.numpy(), atol=1e-6)


@contextmanager
def kept_calls(
    source: DiffusionSource, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Keep queries and keys of torch's attention function inside the transformer."""
    inside = [False]
    kernel = torch.nn.functional.scaled_dot_product_attention

    def note(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
        if inside[0]:
            calls.append((query.double(), key.double()))
        return kernel(query, key, *args, **options)

    enter = source.transformer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
    leave = source.transformer.register_forward_hook(lambda *_: inside.__setitem__(0, False))
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
        yield
    enter.remove()
    leave.remove()


def test_levels_and_draws_of_a_method_replace_the_models_own() -> None:
    source = tiny_source("FluxPipeline")
    maps = read(source, Readout(levels=(0.2, 0.7), draws=2))
    for index, level in enumerate((0.2, 0.7)):
        alone = read(source.with_reading(levels=(level,), draws=2), None)
        np.testing.assert_array_equal(maps.values[index], alone.values[0])


def test_what_has_no_meaning_is_refused() -> None:
    source = tiny_source("FluxPipeline")
    with pytest.raises(ExpressionError, match="vocabulary"):
        source.maps([PICTURE], ["the red ☃"], RecordSpec(readout=STREAM))
    with pytest.raises(ModelError, match="attention between words"):
        read(source, OUTPUTS, text_to_text=True)
    with pytest.raises(ModelError, match="text sinks are those of attention"):
        read(source, OUTPUTS, sinks=SinkEdit("mask", strongest=1))
    for readout in (Readout(levels=(0.5,)), STREAM, replace(OUTPUTS, pooled="zero")):
        with (
            pytest.raises(RecordingError, match="levels, draws, concepts and pooled"),
            record_generation(source, EXPRESSION, RecordSpec(readout=readout)),
        ):
            pass


def test_outputs_are_read_while_a_pipeline_generates() -> None:
    source = tiny_source("FluxPipeline")
    with record_generation(source, EXPRESSION, RecordSpec(readout=OUTPUTS)) as recording:
        source.pipe(
            EXPRESSION, height=32, width=32, num_inference_steps=2, max_sequence_length=16, output_type="latent"
        )
    assert recording.maps.values.shape[:3] == (2, source.layer_count, 1)
    np.testing.assert_allclose(recording.maps.values.sum(axis=3), 1, atol=1e-5)
