"""Every diffusion family on its real diffusers classes at tiny size, against a softmax written out.

Queries, keys and masks are taken from torch's own attention function while a family reads a picture, so the expected
weights come from what the transformer ran and not from the recorder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sources import tiny_source
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra diffusion is not installed")

from grounding.diffusion.base import DiffusionSource
from grounding.diffusion.registry import PIPELINES
from grounding.diffusion.tiny import TINY
from grounding.errors import ExpressionError, ModelError
from grounding.record_spec import RecordSpec
from grounding.types import AttentionMaps, WordKind

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
OTHER = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8))
EXPRESSION = "the red elephant"


@dataclass(frozen=True)
class Case:
    """What a family's layout is, written down by hand.

    Attributes:
        order: `text-first`, `image-first` or `cross`.
        layers: blocks that relate text and image.
        heads: their heads.
        grid: (latent frames, h, w).
        relevant: picks the calls that relate text and image among all calls of torch's function in one pass.
        image_pads: positions between image and text.
    """

    order: str
    layers: int
    heads: int
    grid: tuple[int, int, int]
    relevant: Callable[[list[Any]], list[Any]] = lambda calls: calls
    image_pads: int = 0


CASES = {
    "FluxPipeline": Case("text-first", 4, 3, (1, 4, 4)),
    "ChromaPipeline": Case("text-first", 4, 3, (1, 4, 4)),
    "Flux2Pipeline": Case("text-first", 3, 3, (1, 4, 4)),
    "Flux2KleinPipeline": Case("text-first", 3, 3, (1, 4, 4)),
    # The first block has a second attention, on the image alone.
    "StableDiffusion3Pipeline": Case("image-first", 3, 4, (1, 4, 4), lambda calls: [calls[0], *calls[2:]]),
    "QwenImagePipeline": Case("text-first", 2, 3, (1, 4, 4)),
    # Two refiners run before; 16 cells are padded to 32.
    "ZImagePipeline": Case("image-first", 2, 3, (1, 4, 4), lambda calls: calls[2:], image_pads=16),
    # A refiner of the caption and one of the image run before.
    "Lumina2Pipeline": Case("text-first", 2, 3, (1, 4, 4), lambda calls: calls[2:]),
    "WanPipeline": Case("cross", 2, 2, (2, 4, 4), lambda calls: calls[1::2]),
    "LTXPipeline": Case("cross", 2, 2, (2, 4, 4), lambda calls: calls[1::2]),
    # The prompt is pooled by an attention of its own first.
    "MochiPipeline": Case("image-first", 2, 2, (2, 4, 4), lambda calls: calls[1:]),
    "CogVideoXPipeline": Case("text-first", 2, 2, (2, 4, 4)),
}


@dataclass
class Captured:
    query: Tensor
    key: Tensor
    mask: Tensor | None


@contextmanager
def captured(monkeypatch: pytest.MonkeyPatch, source: DiffusionSource) -> Iterator[list[Captured]]:
    """All calls of torch's attention function inside the transformer."""
    calls: list[Captured] = []
    inside = [False]
    kernel = torch.nn.functional.scaled_dot_product_attention

    def note(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *args: Any, **options: Any) -> Tensor:
        if inside[0]:
            calls.append(Captured(query.double(), key.double(), attn_mask))
        return kernel(query, key, value, attn_mask, *args, **options)

    enter = source.transformer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
    leave = source.transformer.register_forward_hook(lambda *_: inside.__setitem__(0, False))
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
        yield calls
    enter.remove()
    leave.remove()


def read(source: DiffusionSource, spec: RecordSpec | None = None, expression: str = EXPRESSION) -> AttentionMaps:
    spec = spec or RecordSpec()
    if source.video:
        return source.clip_maps([[PICTURE, OTHER] * 3 + [PICTURE]], [expression], spec)[0]
    return source.maps([PICTURE], [expression], spec)[0]


@pytest.fixture(scope="module", params=sorted(CASES))
def source(request: pytest.FixtureRequest) -> DiffusionSource:
    return tiny_source(request.param)


@pytest.fixture(scope="module")
def case(source: DiffusionSource) -> Case:
    return CASES[type(source.pipe).__name__]


def test_every_family_has_a_tiny_pipeline_and_a_case() -> None:
    assert set(PIPELINES) == set(TINY) == set(CASES)


def test_maps_equal_a_softmax_written_out(source: DiffusionSource, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with captured(monkeypatch, source) as calls:
        maps = read(source)
    related = case.relevant(calls)
    frames, height, width = case.grid
    cells = frames * height * width
    assert maps.values.shape[:3] == (1, case.layers, case.heads)
    assert maps.values.shape[4] == cells
    assert len(related) == case.layers
    tokens = len(source.encode(source.prompt(EXPRESSION).text).tokens)
    for layer, call in enumerate(related):
        text, image = {
            "text-first": (slice(0, tokens), slice(tokens, tokens + cells)),
            "image-first": (slice(cells + case.image_pads, cells + case.image_pads + tokens), slice(0, cells)),
            "cross": (slice(0, tokens), slice(0, cells)),
        }[case.order]
        key = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
        logits = call.query[0] @ key[0].transpose(-1, -2) * call.query.shape[-1] ** -0.5
        if call.mask is not None:
            mask = call.mask[0]
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        start = tokens_start(case, tokens, cells)
        kept = [p - start for word in maps.words for p in word.positions]
        expected = logits[:, image, text][..., kept].softmax(-1)  # [H, X, T]
        at = {position: column for column, position in enumerate(kept)}
        for row, word in enumerate(maps.words):
            own = expected[..., [at[p - start] for p in word.positions]].sum(-1)
            np.testing.assert_allclose(maps.values[0, layer, :, row], own.numpy(), atol=1e-6)


def tokens_start(case: Case, tokens: int, cells: int) -> int:
    return 0 if case.order == "text-first" else cells + case.image_pads


def test_the_transformers_output_is_bit_identical(source: DiffusionSource) -> None:
    seen: list[tuple[Any, Any, Any]] = []
    hook = source.transformer.register_forward_hook(
        lambda _, args, kwargs, output: seen.append((args, kwargs, output[0])), with_kwargs=True
    )
    read(source)
    hook.remove()
    [(args, kwargs, recorded)] = seen
    with torch.inference_mode():
        plain = source.transformer(*args, **kwargs)[0]
    for one, other in zip(_tensors(plain), _tensors(recorded), strict=True):
        assert torch.equal(one, other)


def _tensors(output: Any) -> list[Tensor]:
    return list(output) if isinstance(output, list | tuple) else [output]


def test_words_own_their_tokens_and_cells_sum_to_one(source: DiffusionSource) -> None:
    maps = read(source)
    content = [word.text for word in maps.words if word.kind is not WordKind.SPECIAL]
    assert content == ["the", "red", "elephant"]
    assert [EXPRESSION[slice(*w.span)] for w in maps.words if w.kind is not WordKind.SPECIAL] == content
    assert [word.text for word in maps.words if word.is_head] == ["elephant"]
    positions = [p for word in maps.words for p in word.positions]
    assert len(set(positions)) == len(positions)
    assert not set(positions) & set(maps.keys.tolist())
    np.testing.assert_allclose(maps.values.sum(axis=3), 1, atol=1e-5)
    assert maps.direction == "image-to-word"


def test_grids_cover_the_whole_original_picture(source: DiffusionSource, case: Case) -> None:
    maps = read(source)
    frames, height, width = case.grid
    assert [grid.shape for grid in maps.grids] == [(height, width)] * frames
    assert {grid.box_xyxy for grid in maps.grids} == {(0.0, 0.0, 90.0, 60.0)}
    assert maps.image_size == (90, 60)
    step = source.frames_per_latent
    assert [grid.frame for grid in maps.grids] == (
        [0, *(1 + i * step for i in range(frames - 1))] if source.video else [None]
    )


def test_the_picture_keeps_its_orientation(source: DiffusionSource, case: Case) -> None:
    """A change in the top right quarter changes that quarter's latents most."""
    changed = np.asarray(PICTURE).copy()
    changed[:30, 45:] = 255 - changed[:30, 45:]
    with torch.inference_mode():
        frames = [PICTURE] * (1 + source.frames_per_latent if source.video else 1)
        before = source._encoded_picture(frames)
        after = source._encoded_picture([Image.fromarray(changed)] * len(frames))
    difference = (before - after).abs().sum(dim=1)[0]
    difference = difference.sum(dim=0) if source.video else difference
    height, width = difference.shape
    quarters = difference.reshape(2, height // 2, 2, width // 2).sum((1, 3))
    assert int(quarters.argmax()) == 1


def test_a_cell_is_the_query_of_its_own_latents(
    source: DiffusionSource, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing the latents under one cell changes that cell's query in the first block most."""
    frames, height, width = case.grid
    row, column = 1, 2
    queries = []
    with torch.inference_mode():
        encoded = source.encode(EXPRESSION)
        clean = source._encoded_picture([PICTURE] * (1 + source.frames_per_latent if source.video else 1))
        frames = source.latent_shape(clean).frames
        rows, columns = clean.shape[-2] // height, clean.shape[-1] // width
        for shift in (0.0, 0.5):
            noisy = clean.clone()
            part = noisy if clean.ndim == 4 else noisy[:, :, -1]
            part[..., row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] += shift
            with captured(monkeypatch, source) as calls:
                source.transformer(**source.inputs(noisy, 0.5, encoded), return_dict=False)
            queries.append(case.relevant(calls)[0].query[0])
    start = source.placement(encoded.tokens, source.latent_shape(clean)).image_start
    moved = (queries[0] - queries[1]).norm(dim=-1).sum(0)[start : start + frames * height * width]
    assert int(moved.argmax()) == (frames - 1) * height * width + row * width + column


def test_draws_are_seeded_and_averaged(source: DiffusionSource) -> None:
    one, again = read(source).values, read(source).values
    np.testing.assert_array_equal(one, again)
    second = read(source.with_reading(seed=1)).values
    assert np.abs(one - second).max() > 0
    both = read(source.with_reading(draws=2)).values
    np.testing.assert_allclose(both, (one + second) / 2, atol=1e-6)
    levels = read(source.with_reading(levels=(0.5, 0.8))).values
    assert levels.shape[0] == 2
    np.testing.assert_array_equal(levels[:1], one)


def test_text_to_text_and_word_to_image(source: DiffusionSource, case: Case) -> None:
    if case.order == "cross":
        with pytest.raises(ModelError, match="in cross attention text tokens are keys alone"):
            read(source, RecordSpec(text_to_text=True))
        with pytest.raises(ModelError, match="in cross attention"):
            read(source.with_reading(direction="word-to-image"))
        return
    maps = read(source, RecordSpec(text_to_text=True))
    assert maps.text_to_text is not None
    np.testing.assert_allclose(maps.text_to_text.sum(axis=-1), 1, atol=1e-5)
    turned = read(source.with_reading(direction="word-to-image"))
    assert turned.direction == "word-to-image"
    assert (turned.values.sum(axis=-1) < 1).all()


def test_padding_is_treated_as_asked(source: DiffusionSource) -> None:
    for rule in source.pad_rules:
        own = source.with_reading(pads=rule)
        maps = read(own)
        tokens = own.encode(EXPRESSION).tokens
        wanted = [token for token in tokens if token.role != "pad" or rule == "keep"]
        assert sum(len(word.positions) for word in maps.words) == len(wanted)
        assert any(token.role == "pad" for token in tokens) == (rule != "drop")
    refused = {"drop", "ignore", "keep", "mask"} - set(source.pad_rules)
    for rule in refused:
        with pytest.raises(ModelError, match="cannot read padding as"):
            read(source.with_reading(pads=rule))


def test_masked_padding_changes_nothing_in_the_maps_but_what_it_carries(source: DiffusionSource) -> None:
    """The network attends to padding unless it is masked; then maps are those of other padding too."""
    if "mask" not in source.pad_rules or "ignore" not in source.pad_rules:
        pytest.skip("the family has one rule only")
    assert (
        np.abs(read(source.with_reading(pads="mask")).values - read(source.with_reading(pads="ignore")).values).max()
        > 0
    )


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "has no words"),
        ("the of", "stop words alone"),
        ("the red </s> dog", "control token"),
        ("the red dog \ud83d", "lone surrogate"),
        ("a very " * 1200 + "red dog", "shorten it"),
    ],
)
def test_bad_expressions_are_refused(source: DiffusionSource, expression: str, message: str) -> None:
    if message == "control token":
        expression = expression.replace("</s>", str(source.tokenizer.eos_token))
    with pytest.raises(ExpressionError, match=message):
        read(source, expression=expression)


def test_a_generic_prompt_has_its_own_words(source: DiffusionSource) -> None:
    spec = RecordSpec()
    arguments = ([[PICTURE] * 7], [""], spec, "describe the image")
    maps = (source.clip_maps(*arguments) if source.video else source.maps([PICTURE], *arguments[1:]))[0]
    assert [word.text for word in maps.words if word.kind is not WordKind.SPECIAL] == ["describe", "the", "image"]


def test_pictures_and_clips_are_not_mixed_up(source: DiffusionSource) -> None:
    if source.video:
        with pytest.raises(ModelError, match="is a video model"):
            source.maps([PICTURE], [EXPRESSION], RecordSpec())
    else:
        with pytest.raises(ModelError, match="is an image model"):
            source.clip_maps([[PICTURE]], [EXPRESSION], RecordSpec())


def test_the_layout_says_what_every_position_is(source: DiffusionSource) -> None:
    prompt = source.prompt(EXPRESSION)
    tokens = source.encode(prompt.text).tokens
    with torch.inference_mode():
        frames = [PICTURE] * (1 + source.frames_per_latent if source.video else 1)
        shape = source.latent_shape(source._encoded_picture(frames))
    placement = source.placement(tokens, shape)
    words = source.words(prompt, tokens, placement)
    maps = read(source)
    layout = placement.layout(maps.grids[: shape.frames], words, (90, 60))
    assert len(layout.expression) == sum(len(w.positions) for w in words if w.kind is not WordKind.SPECIAL)
    assert set(layout.cells.tolist()) == set(placement.cells)
