"""Every family against eager attention, on a tiny random model of its real class."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from contract_cases import BUILDERS, build_vlm
from PIL import Image

from grounding.attention.rows import TOLERANCE
from grounding.models.base import VLM
from grounding.models.maps import record_maps
from grounding.models.prepared import Prepared
from grounding.models.tiny import tiny_llava
from grounding.record_spec import RecordSpec

ALLOWED = TOLERANCE[torch.float32]
EXPRESSIONS = ["dog", "the red elephant left of the dog"]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [noise(120, 80), noise(60, 100)]


@pytest.fixture(scope="module", params=[*BUILDERS, "llava/exact size"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    exact = partial(tiny_llava, resize="exact") if request.param == "llava/exact size" else None
    return build_vlm(request.param, exact)


@pytest.fixture(scope="module")
def prepared(vlm: VLM) -> Prepared:
    return vlm.prepare(PICTURES, EXPRESSIONS)


def eager_attention(vlm: VLM, prepared: Prepared) -> torch.Tensor:
    """[B, L, H, N, N]"""
    vlm.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            attentions = vlm.model(**prepared.inputs, output_attentions=True, use_cache=False).attentions
    finally:
        vlm.model.set_attn_implementation("sdpa")
    return torch.stack(list(attentions), dim=1)


def test_maps_are_the_mean_rows_of_eager_attention(vlm: VLM, prepared: Prepared) -> None:
    full = eager_attention(vlm, prepared)
    for index, maps in enumerate(record_maps(vlm, prepared, RecordSpec())):
        assert maps.values.shape == (1, 2, vlm.head_count, len(prepared.words[index]), len(maps.keys))
        assert maps.layer_count == 2
        for row, word in enumerate(maps.words):
            expected = full[index][:, :, list(word.positions)][..., maps.keys.tolist()].mean(dim=2)
            np.testing.assert_allclose(maps.values[0, :, :, row], expected.numpy(), rtol=0, atol=ALLOWED)


def test_attention_of_the_tiny_models_is_far_from_uniform(vlm: VLM, prepared: Prepared) -> None:
    """Otherwise equality with eager would prove little."""
    maps = record_maps(vlm, prepared, RecordSpec())[1]
    assert maps.values.max() > 5 / prepared.length


def test_a_left_padded_batch_equals_its_elements(vlm: VLM, prepared: Prepared) -> None:
    assert prepared.layouts[0].padding > 0
    for index, together in enumerate(record_maps(vlm, prepared, RecordSpec())):
        alone = record_maps(vlm, vlm.prepare([PICTURES[index]], [EXPRESSIONS[index]]), RecordSpec())[0]
        np.testing.assert_allclose(alone.values, together.values, rtol=0, atol=1e-5)


def test_reduction_while_running_equals_reduction_afterwards(vlm: VLM, prepared: Prepared) -> None:
    full = record_maps(vlm, prepared, RecordSpec())
    for reduced, maps in zip(record_maps(vlm, prepared, RecordSpec(reduce="both")), full, strict=True):
        np.testing.assert_allclose(reduced.values, maps.values.mean((1, 2), keepdims=True), atol=ALLOWED)
        assert reduced.layers == ()
    chosen = record_maps(vlm, prepared, RecordSpec(layers=(1,), heads=(2, 0)))[0]
    np.testing.assert_array_equal(chosen.values, full[0].values[:, 1:, [2, 0]])
    assert chosen.layers == (1,)


def test_statistics_of_heads_are_those_of_eager_attention(vlm: VLM, prepared: Prepared) -> None:
    full = eager_attention(vlm, prepared)
    recorded = record_maps(vlm, prepared, RecordSpec(head_statistics=("max_all", "max_image"), residual_sinks=True))
    for index, maps in enumerate(recorded):
        real = full[index][:, :, prepared.layouts[index].padding :]
        image = real[..., prepared.layouts[index].image.tolist()]
        for name, expected in (("max_all", real), ("max_image", image)):
            np.testing.assert_allclose(
                maps.head_statistics[name], expected.amax(-1).mean(-1).numpy(), rtol=0, atol=ALLOWED
            )
        assert maps.residual_sinks is not None
        assert maps.residual_sinks.shape == (2, len(maps.keys))


@pytest.mark.parametrize("side", ["first", "middle", "last"])
def test_a_cells_token_is_the_one_that_sees_its_part_of_the_picture(vlm: VLM, side: str) -> None:
    """Change the picture inside one cell's box: the image token at that cell's position changes most."""
    size = (140, 84)
    grid = vlm.prepare([Image.new("RGB", size, (90, 90, 90))], ["dog"]).layouts[0].grids[0]
    rows, columns = grid.shape
    row, column = {"first": (0, 0), "middle": (rows // 2, 1), "last": (rows - 1, columns - 1)}[side]
    x0, y0, x1, y1 = grid.box_xyxy
    width, height = (x1 - x0) / columns, (y1 - y0) / rows
    changed = np.full((size[1], size[0], 3), 90, dtype=np.uint8)
    top, left = y0 + row * height, x0 + column * width
    changed[round(top + 2) : round(top + height - 2), round(left + 2) : round(left + width - 2)] = (255, 0, 200)
    before = embeddings(vlm, Image.new("RGB", size, (90, 90, 90)))
    difference = (embeddings(vlm, Image.fromarray(changed)) - before).norm(dim=-1)
    assert int(difference.argmax()) == grid.positions[row * columns + column]


def embeddings(vlm: VLM, picture: Image.Image) -> torch.Tensor:
    """[N, hidden] what the decoder is given."""
    seen = []
    handle = vlm.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    try:
        with torch.inference_mode():
            vlm.model(**vlm.prepare([picture], ["dog"]).inputs, use_cache=False)
    finally:
        handle.remove()
    return seen[0]
