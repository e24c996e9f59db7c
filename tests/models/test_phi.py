"""Phi-4 multimodal: where cells lie when a canvas is padded, and features of a decoder that places them itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import ModelError
from grounding.models.base import VLM
from grounding.models.registry import family_class
from grounding.models.tiny.phi import PATCH, TILE, tiny_phi4_multimodal
from grounding.record_spec import RecordSpec

CELL = 2 * PATCH


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return family_class("phi4_multimodal")(*tiny_phi4_multimodal())


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "canvas", "tiles", "whole"),
    [
        ((TILE, TILE), (TILE, TILE), (16, 16), (16, 16)),
        ((2 * TILE, TILE), (2 * TILE, TILE), (16, 32), (16, 16)),
        ((2 * TILE, 64), (2 * TILE, TILE), (8, 32), (8, 16)),
        ((40, 100), (TILE, TILE), (16, 7), (16, 7)),  # 51 px of the tile
        ((700, 300), (2 * TILE, TILE), (14, 32), (14, 16)),  # more tiles than may be: shrunk to the nearest aspect
    ],
)
def test_a_picture_has_the_cells_of_its_tiles_and_of_the_whole_without_the_padding(
    vlm: VLM, size: tuple[int, int], canvas: tuple[int, int], tiles: tuple[int, int], whole: tuple[int, int]
) -> None:
    prepared = vlm.prepare([picture(*size)], ["dog"])
    assert prepared.inputs["image_sizes"].tolist() == [[canvas[1], canvas[0]]]
    detail, small = prepared.layouts[0].grids
    assert (detail.shape, small.shape) == (tiles, whole)
    for grid in (detail, small):
        assert grid.box_xyxy[:2] == (0, 0)
        height, width = (grid.box_xyxy[3] / grid.shape[0], grid.box_xyxy[2] / grid.shape[1])
        # The last row and column of the tiles are left out where their first patch is padding.
        assert size[0] - width / 2 <= grid.box_xyxy[2] < size[0] + width
        assert size[1] - height / 2 <= grid.box_xyxy[3] < size[1] + height
    assert small.positions.min() == detail.positions.max() + 3  # the end of the row, and the separator


def test_features_of_cells_are_what_enters_the_first_layer(vlm: VLM) -> None:
    prepared = vlm.prepare([picture(200, 70)], ["dog"])
    seen: list[torch.Tensor] = []
    handle = vlm.decoder.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        vlm.model(**prepared.inputs)
    handle.remove()
    (maps,) = vlm.maps([picture(200, 70)], ["dog"], RecordSpec(features=True))
    np.testing.assert_array_equal(maps.features, seen[0][0, maps.keys].numpy())


def test_settings_that_do_not_fit_the_model_are_refused() -> None:
    model, processor = tiny_phi4_multimodal()
    processor.image_processor.patch_size = 8
    with pytest.raises(
        ModelError, match=r"image tokens for a picture of 128x128 px on a canvas of 128x128 px: expected"
    ):
        family_class("phi4_multimodal")(model, processor).prepare([picture(TILE, TILE)], ["dog"])
