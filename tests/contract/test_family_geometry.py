"""What every model family promises of the geometry: which token stands for which part of which picture, and words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image, ImageOps
from subjects import EXPRESSIONS, Subject

from grounding.errors import RecordingError
from grounding.geometry import Box, uncovered_share
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.maps import record_maps
from grounding.models.prepared import Prepared
from grounding.models.registry import FAMILIES as KNOWN
from grounding.record_spec import RecordSpec

GREY, BRIGHT = (90, 90, 90), (255, 0, 200)


def test_the_table_holds_every_family() -> None:
    assert {name.partition("/")[0] for name in FAMILIES} == set(KNOWN)


def test_cells_are_the_image_tokens_and_cover_the_picture(subject: Subject) -> None:
    vlm = subject.vlm
    for index, layout in enumerate(subject.batch.layouts):
        ids = subject.batch.inputs["input_ids"][index].numpy()
        image = np.flatnonzero(ids == vlm.image_token_id)
        assert set(layout.cells) <= set(image) <= set(layout.image)
        cells = np.concatenate([grid.positions for grid in layout.grids])
        if not layout.cross:
            np.testing.assert_array_equal(np.sort(cells), layout.cells)
        assert set(cells) <= set(layout.keys)
        assert len(set(cells)) == sum(grid.shape[0] * grid.shape[1] for grid in layout.grids)
        assert len(layout.grids) == subject.family.grids[index]
        assert sorted({*layout.image, *layout.system, *layout.instruction}) == list(
            range(layout.padding, layout.length)
        )
        if subject.family.full:
            assert uncovered_share([grid.box_xyxy for grid in layout.grids], subject.family.sizes[index]) == 0


def test_every_cell_has_a_feature_of_its_own_and_logits(subject: Subject) -> None:
    cells_are_tokens = not subject.batch.layouts[0].cross
    for maps in subject.vlm.maps(subject.pictures, EXPRESSIONS, RecordSpec(features=True, logits=cells_are_tokens)):
        assert maps.features is not None
        if cells_are_tokens:
            assert maps.logits is not None
            assert maps.logits.shape == (len(maps.words), len(maps.keys))
            assert np.isfinite(maps.logits).all()
        at = np.searchsorted(maps.keys, np.concatenate([grid.positions for grid in maps.grids]))
        assert len(np.unique(maps.features[at], axis=0)) == len(at)  # the picture is noise


def test_cells_that_are_keys_of_cross_attention_have_no_logits_and_are_no_residual_sinks(subject: Subject) -> None:
    sinks = RecordSpec(residual_sinks=True)
    if not subject.batch.layouts[0].cross:
        assert all(maps.residual_sinks.any() for maps in record_maps(subject.vlm, subject.batch, sinks))
        return
    with pytest.raises(RecordingError, match="cells are no tokens of its language model and have no logits at cells"):
        record_maps(subject.vlm, subject.batch, RecordSpec(logits=True))
    for maps in record_maps(subject.vlm, subject.batch, sinks):
        assert maps.residual_sinks.shape == (maps.values.shape[1], len(maps.keys))
        assert not maps.residual_sinks.any()


def test_each_words_tokens_spell_the_word(subject: Subject) -> None:
    for prepared in (subject.batch, subject.pair):
        for words, ids in zip(prepared.words, prepared.inputs["input_ids"], strict=True):
            for word in words[:-1]:
                assert subject.vlm.tokenizer.decode(ids[list(word.positions)]).strip() == word.text
            assert words[-1].positions == (prepared.length - 1,)


class EndOfPassError(Exception):
    pass


def embeddings(vlm: VLM, prepared: Prepared) -> torch.Tensor:
    """[B, N, hidden] what the decoder's first layer is given, where no patch sees another before.

    Of a model that reads pictures by cross-attention [B, K, hidden], what its projector is given.
    """
    seen, changed = [], []

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        rows = args[0] if args else kwargs["hidden_states"]
        seen.append(rows.reshape(len(rows), -1, rows.shape[-1]))
        raise EndOfPassError

    read = vlm.projector if prepared.layouts[0].cross else vlm.decoder.layers[0]
    handle = read.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        for parameter in attention_outputs(vlm):
            changed.append((parameter, parameter.clone()))
            parameter.zero_()
        for kernel in overlapping_kernels(vlm):
            changed.append((kernel, kernel.clone()))
            centre = kernel[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2].clone()
            kernel.zero_()[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = centre
        vlm.model(**prepared.inputs, use_cache=False)
    except EndOfPassError:
        pass
    finally:
        handle.remove()
        for parameter, before in changed:
            parameter.copy_(before)
    return seen[0]


def attention_outputs(vlm: VLM) -> Iterator[torch.Tensor]:
    """The weights and biases that write the outputs of all attention before the decoder's, but pooling in a cell's."""
    names = ("out_proj", "o_proj", "proj", "projection", "projection_layer", "wo")
    own = set(vlm.decoder.layers.modules())
    for at, module in vlm.model.named_modules():
        if module not in own and "attention" in type(module).__name__.lower() and "pooling" not in at:
            yield from (p for name in names if hasattr(module, name) for p in getattr(module, name).parameters())


def overlapping_kernels(vlm: VLM) -> Iterator[torch.Tensor]:
    """The weights of the convolutions before the decoder whose windows overlap."""
    own = set(vlm.decoder.layers.modules())
    for module in vlm.model.modules():
        if module not in own and isinstance(module, torch.nn.Conv2d) and module.kernel_size > module.stride:
            yield module.weight


def overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def cell_boxes(grid: ImageGrid, beyond: float = 0.0) -> list[Box]:
    """Each cell's box in the picture, enlarged by a share of the cell on each side."""
    x0, y0, x1, y1 = grid.box_xyxy
    height, width = (y1 - y0) / grid.shape[0], (x1 - x0) / grid.shape[1]
    return [
        (
            x0 + (column - beyond) * width,
            y0 + (row - beyond) * height,
            x0 + (column + 1 + beyond) * width,
            y0 + (row + 1 + beyond) * height,
        )
        for row in range(grid.shape[0])
        for column in range(grid.shape[1])
    ]


def patches(grids: tuple[ImageGrid, ...], size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Boxes in whole pixels: the middle parts of the first, a middle and the last of the smallest cells in view."""
    area = [(g.box_xyxy[2] - g.box_xyxy[0]) * (g.box_xyxy[3] - g.box_xyxy[1]) / len(g.positions) for g in grids]
    smallest = [
        middle(box) for grid, own in zip(grids, area, strict=True) if own < 1.01 * min(area) for box in cell_boxes(grid)
    ]
    seen = [box for box in smallest if min(box) >= 0 and box[2] <= size[0] and box[3] <= size[1]]
    return [seen[0], seen[len(seen) // 2], seen[-1]]


def middle(box: Box, low: float = 0.36, high: float = 0.64) -> tuple[int, int, int, int]:
    """The middle part of a box, in whole pixels."""
    x0, y0, x1, y1 = (round(box[i] + share * (box[i + 2] - box[i])) for share in (low, high) for i in (0, 1))
    return x0, y0, x1, y1


def with_patch(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", size, GREY)
    picture.paste(BRIGHT, box)
    return picture


def moved(vlm: VLM, items: list[Any], grids: tuple[ImageGrid, ...]) -> list[list[np.ndarray]]:
    """Per item but the first and per grid, which cells' embeddings differ from the first item's."""
    found = embeddings(vlm, vlm.prepare(items, ["dog"] * len(items)))
    difference = (found[1:] - found[:1]).norm(dim=-1).numpy()  # [B - 1, N]
    return [[one[grid.positions] > 1e-3 * one.max() for grid in grids] for one in difference]


def check_moved(cells: list[np.ndarray], grids: tuple[ImageGrid, ...], patch: Box) -> None:
    area = overlap(patch, patch)
    for own, grid in zip(cells, grids, strict=True):
        for is_moved, box, near in zip(own, cell_boxes(grid), cell_boxes(grid, 0.3), strict=True):
            if overlap(box, patch) > 0.2 * area:
                assert is_moved, f"the cell {box} covers the patch {patch} and does not move"
            if not overlap(near, patch):
                assert not is_moved, f"the cell {box} lies apart from the patch {patch} and moves"


def test_a_bright_patch_moves_the_cells_that_cover_it_and_no_other(subject: Subject) -> None:
    for size in subject.family.sizes:
        (layout,) = subject.vlm.prepare([Image.new("RGB", size, GREY)], ["dog"]).layouts
        boxes = patches(layout.grids, size)
        items = [Image.new("RGB", size, GREY), *(with_patch(size, box) for box in boxes)]
        for cells, box in zip(moved(subject.vlm, items, layout.grids), boxes, strict=True):
            check_moved(cells, layout.grids, box)
            assert sum(int(own.sum()) for own in cells) >= 1


def test_a_mirrored_picture_mirrors_the_grid(subject: Subject) -> None:
    size = subject.family.sizes[0]
    plain = Image.new("RGB", size, GREY)
    grids = subject.vlm.prepare([plain], ["dog"]).layouts[0].grids
    boxes = patches(grids, size)
    pictures = [with_patch(size, box) for box in boxes]
    found = moved(subject.vlm, [plain, *pictures, *map(ImageOps.mirror, pictures)], grids)
    for cells, mirrored, box in zip(found[:3], found[3:], boxes, strict=True):
        check_moved(mirrored, grids, (size[0] - box[2], box[1], size[0] - box[0], box[3]))
        width = max((grid.box_xyxy[2] - grid.box_xyxy[0]) / grid.shape[1] for grid in grids)
        np.testing.assert_allclose(
            sorted(size[0] - x for x in centres(cells, grids)), sorted(centres(mirrored, grids)), atol=0.1 * width
        )


def centres(cells: list[np.ndarray], grids: tuple[ImageGrid, ...]) -> list[float]:
    """Per grid with moved cells, the mean x of their centres."""
    return [
        float(np.mean([(box[0] + box[2]) / 2 for box, is_moved in zip(cell_boxes(grid), own, strict=True) if is_moved]))
        for own, grid in zip(cells, grids, strict=True)
        if own.any()
    ]


def test_a_patch_in_the_second_picture_moves_its_cells_alone(subject: Subject) -> None:
    if not subject.vlm.takes_several:
        pytest.skip("the family takes one picture")
    size = subject.family.sizes[0]
    plain = Image.new("RGB", size, GREY)
    (layout,) = subject.vlm.prepare([[plain, plain]], ["dog"]).layouts
    second = tuple(grid for grid in layout.grids if grid.picture == 1)
    boxes = patches(second, size)
    items = [[plain, plain], *([plain, with_patch(size, box)] for box in boxes)]
    for cells, box in zip(moved(subject.vlm, items, layout.grids), boxes, strict=True):
        first = len(layout.grids) - len(second)
        assert not any(own.any() for own in cells[:first])
        check_moved(cells[first:], second, box)
