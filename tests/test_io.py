from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import made_maps, with_background
from pycocotools.coco import COCO
from safetensors import safe_open
from safetensors.numpy import save_file

from grounding.errors import OutputError
from grounding.files import write_bytes
from grounding.io import (
    coco_result,
    decode_mask,
    encode_mask,
    load_heatmap,
    load_maps,
    save_heatmap,
    save_maps,
    write_coco,
)
from grounding.types import AttentionMaps, Heatmap, PointPrompts, Segment, StageReport


def _segment(mask) -> Segment:
    points = PointPrompts(np.array([[3, 2]], np.float32), np.array([1]), np.ones(1, np.float32))
    return Segment(np.asarray(mask, bool), 0.875, points, "a star")


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_masks_come_back_from_run_lengths(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_mask(mask)
    assert json.loads(json.dumps(rle)) == rle
    assert rle["size"] == [height, width]
    np.testing.assert_array_equal(decode_mask(rle), mask)


def test_long_runs_come_back():
    mask = np.zeros((900, 700), bool)
    mask[100:800, 50:650] = True
    mask[::7, ::13] ^= True
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [5, 5], "counts": "zz"},
        {"size": [5, 5], "counts": ""},
        {"size": [2, 2], "counts": "0150000000"},
        {"size": [50, 50], "counts": "0150000000"},
        {"size": [0, 0], "counts": ""},
        {"size": [5], "counts": "0150000000"},
        {"size": [5, 5], "counts": "0150000000 é"},
        {"size": [5, 5], "counts": None},
        {"counts": "01"},
    ],
)
def test_broken_run_lengths_are_refused_rather_than_filled_with_garbage(rle):
    with pytest.raises(OutputError, match="mask"):
        decode_mask(rle)


def test_results_load_in_pycocotools(tmp_path, capsys):
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:25] = True
    path = write_coco(tmp_path / "results.json", [coco_result(_segment(mask), 7), coco_result(_segment(mask.T), 8, 3)])
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "width": 30, "height": 20}, {"id": 8, "width": 20, "height": 30}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}, {"id": 3, "name": "b"}],
    }
    truth.createIndex()
    found = truth.loadRes(str(path))
    first, second = found.loadAnns(found.getAnnIds())
    assert (first["image_id"], first["category_id"], first["score"]) == (7, 1, 0.875)
    assert first["bbox"] == [10, 4, 15, 5]
    assert (second["image_id"], second["category_id"]) == (8, 3)
    np.testing.assert_array_equal(found.annToMask(first), mask)


def test_an_empty_mask_is_a_result_too():
    result = coco_result(_segment(np.zeros((4, 5))), "a.png")
    assert result["bbox"] == [0, 0, 0, 0]
    assert not decode_mask(result["segmentation"]).any()


def test_heat_maps_come_back_without_pickle(tmp_path):
    stages = (
        StageReport("smooth", 0.25, "blurred: größer", {"heads": [[1, 2]], "n": np.int64(3)}),
        StageReport("rows", 0.5, "one of two", dropped={1: "stop word"}, weights=(1.0, 0.0)),
    )
    heatmap = Heatmap(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), (640, 480), stages)
    path = save_heatmap(tmp_path / "map.npz", heatmap)
    loaded = load_heatmap(path)
    np.testing.assert_array_equal(loaded.values, heatmap.values)
    assert loaded.image_size == (640, 480)
    assert loaded.stages == stages
    with np.load(path, allow_pickle=False) as data:
        assert set(data.files) == {"values", "image_size", "stages"}


def _same(one: AttentionMaps, other: AttentionMaps) -> None:
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.keys, other.keys)
    assert (one.layers, one.words, one.image_size, one.direction, one.signed) == (
        other.layers,
        other.words,
        other.image_size,
        other.direction,
        other.signed,
    )
    assert (one.layer_count, one.skipped_layers) == (other.layer_count, other.skipped_layers)
    for mine, theirs in zip(one.grids, other.grids, strict=True):
        np.testing.assert_array_equal(mine.positions, theirs.positions)
        for name in ("shape", "box_xyxy", "picture", "frame"):
            assert getattr(mine, name) == getattr(theirs, name)
    assert one.head_statistics.keys() == other.head_statistics.keys()
    for name, table in one.head_statistics.items():
        np.testing.assert_array_equal(table, other.head_statistics[name])
    assert (one.residual_sinks is None) == (other.residual_sinks is None)
    np.testing.assert_array_equal(one.text_to_text, other.text_to_text)
    assert (one.background is None) == (other.background is None)
    if one.background is not None and other.background is not None:
        _same(one.background, other.background)


@pytest.mark.parametrize(
    "maps",
    [
        made_maps(),
        replace(with_background(made_maps()), layer_count=9, skipped_layers=(7, 8)),
        replace(made_maps(), residual_sinks=None, head_statistics={}),
        replace(made_maps(), values=made_maps().values[..., ::-1]),
        replace(made_maps(), grids=(replace(made_maps().grids[0], picture=1, frame=3),)),
        replace(made_maps(), text_to_text=np.random.default_rng(0).random((1, 4, 3, 5, 5), np.float32)),
    ],
    ids=["plain", "background", "bare", "not-contiguous", "frame", "text-to-text"],
)
def test_attention_maps_come_back(tmp_path, maps):
    _same(load_maps(save_maps(tmp_path / "maps.safetensors", maps)), maps)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 3), layers=st.integers(1, 3), heads=st.integers(1, 3),
    direction=st.sampled_from(["word-to-image", "image-to-word"]), signed=st.booleans(), behind=st.booleans(),
)  # fmt: skip
def test_any_attention_maps_come_back(tmp_path_factory, seed, steps, layers, heads, direction, signed, behind):
    maps = made_maps(seed, layers=tuple(range(3, 3 + layers)), heads=heads, steps=steps)
    maps = replace(maps, direction=direction, signed=signed, layer_count=layers + 7)
    if behind:
        maps = with_background(maps, seed + 1)
    _same(load_maps(save_maps(tmp_path_factory.mktemp("maps") / "maps.safetensors", maps)), maps)


@pytest.mark.parametrize(("axis", "direction"), [("keys", "word-to-image"), ("text", "image-to-word")])
def test_files_without_a_step_axis_are_read_as_one_step(tmp_path, axis, direction):
    maps = replace(with_background(made_maps()), direction=direction)
    maps = replace(maps, background=replace(maps.background, direction=direction))
    path = save_maps(tmp_path / "maps.safetensors", maps)
    with safe_open(path, framework="numpy") as file:
        described = json.loads(file.metadata()["maps"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    for part, prefix in ((described, ""), (described["background"], "background.")):
        del part["direction"], part["signed"]
        part["axis"] = axis
        tensors[f"{prefix}values"] = tensors[f"{prefix}values"][0]
    save_file(tensors, path, metadata={"maps": json.dumps(described)})
    _same(load_maps(path), maps)


@pytest.mark.parametrize("load", [load_heatmap, load_maps])
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 half a zip", b"not at all" * 50])
def test_files_that_hold_nothing_readable(tmp_path, load, content):
    path = tmp_path / "a.file"
    if content is not None:
        write_bytes(path, content)
    with pytest.raises(OutputError, match=r"a\.file"):
        load(path)


def test_a_pickled_npz_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", values=np.array([object()]), image_size=np.array([4, 4]), stages=np.array("[]"))
    with pytest.raises(OutputError, match="no heat map"):
        load_heatmap(tmp_path / "a.npz")


def test_a_cut_file_is_refused(tmp_path):
    for save, load, thing in (
        (save_maps, load_maps, made_maps()),
        (save_heatmap, load_heatmap, Heatmap(np.random.default_rng(0).random((40, 40)).astype(np.float32), (40, 40))),
    ):
        path = save(tmp_path / "whole", thing)
        content = path.read_bytes()
        for share in (0.1, 0.5, 0.95):
            write_bytes(path, content[: int(len(content) * share)])
            with pytest.raises(OutputError):
                load(path)
