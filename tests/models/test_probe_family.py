"""Loading with `--family probe`, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from grounding.doctor_weights import check_weights
from grounding.errors import ImageError, ModelError
from grounding.models.load import load
from grounding.models.probing.compare import compare
from grounding.models.probing.family import Probed
from grounding.models.probing.grids import find_grids
from grounding.models.probing.movement import Movement
from grounding.models.tiny import TINY

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Probed, "bands", 32)


def save(folder: Path, model: Any, *parts: Any) -> str:
    for part in (model, *parts):
        part.save_pretrained(folder)
    return str(folder)


def test_a_model_is_loaded_without_its_family(tmp_path: Path) -> None:
    name = save(tmp_path / "model", *TINY["llava"]())
    vlm = load(name, "cpu", family="probe")
    assert type(vlm) is Probed
    found, claimed = (one.prepare([PICTURE], ["dog"]).layouts[0].grids for one in (vlm, load(name, "cpu")))
    assert compare(found, claimed, PICTURE.size).agree
    with pytest.raises(ModelError, match=r"--family lava was given, expected probe or .* \(did you mean 'llava'\?\)"):
        load(name, "cpu", family="lava")


def test_an_unknown_type_is_told_the_nearest_and_the_way_out(tmp_path: Path) -> None:
    AutoConfig.for_model("vipllava").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'vipllava', which no family .*did you mean 'llava'.*--family probe finds"):
        load(str(tmp_path), "cpu")


@pytest.mark.parametrize("family", [None, "probe"])
def test_a_processor_of_another_model_is_refused(tmp_path: Path, family: str | None) -> None:
    name = save(tmp_path / "model", TINY["llava"]()[0], TINY["qwen2_5_vl"]()[1])
    with pytest.raises(ModelError, match="load the model with its own processor"):
        load(name, "cpu", family=family).prepare([PICTURE], ["dog"])


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        ("llava", "llava_next", "have other shapes than its config asks for, which is of model type 'llava_next'"),
        ("qwen2_5_vl", "qwen2_vl", "lack 13 tensors, .* expected every tensor of Qwen2VLForConditionalGeneration"),
    ],
)
def test_a_checkpoint_of_another_class_is_refused(tmp_path: Path, weights: str, config: str, message: str) -> None:
    name = save(tmp_path / "model", *TINY[weights](), TINY[config]()[0].config)
    with pytest.raises(ModelError, match=message):
        load(name, "cpu")


def test_two_pictures_are_refused_where_a_family_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = Probed(*TINY["llava"]())
    monkeypatch.setattr(Probed, "takes_several", False)
    with pytest.raises(ImageError, match="takes one picture for each expression, got 2"):
        vlm.prepare([[PICTURE, PICTURE]], ["dog"])


def movement(columns: np.ndarray, rows: np.ndarray) -> Movement:
    seen = columns.any(axis=1)
    return Movement(columns.astype(np.float32), rows.astype(np.float32), seen, (40, 40), 8, 0.0)


def test_tokens_that_read_everything_or_nothing_are_refused() -> None:
    for value, message in ((0.0, "no image token of it moves"), (1.0, "4 image tokens of it move with every part")):
        flat = np.full((4, 4), value)
        with pytest.raises(ModelError, match=message):
            find_grids(movement(flat, flat), np.arange(4), "it")


def test_tokens_in_no_order_of_a_grid_are_refused_and_columns_first_are_read() -> None:
    eye = np.eye(4)
    at = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]  # (column, row)
    moved = movement(eye[[x for x, _ in at]], eye[[y for _, y in at]])
    (grid,) = find_grids(moved, np.arange(8), "it")
    assert grid.shape == (4, 2)
    np.testing.assert_array_equal(grid.positions, [0, 4, 1, 5, 2, 6, 3, 7])
    assert grid.box_xyxy == (0, 0, 20, 40)
    apart = movement(eye[[0, 2, 3]], eye[[3, 0, 2]])
    with pytest.raises(ModelError, match="do not follow one another as cells of a grid do"):
        find_grids(apart, np.arange(3), "it")


def test_doctor_checks_the_models_own_weights_and_sees_a_wrong_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    from grounding.models.llava import Llava

    vlm = Llava(*TINY["llava"]())
    with torch.inference_mode():
        checks = check_weights(vlm)
    assert len(checks) == 7
    assert [one for one in checks if not one.passed] == []
    assert "passes of the vision tower in" in checks[-1].detail
    honest = Llava.grids

    def mirrored(self: Any, picture: Any, positions: Any) -> Any:
        return honest(self, picture, positions[::-1].copy())

    monkeypatch.setattr(Llava, "grids", mirrored)
    failed = [one for one in check_weights(vlm) if one.passed is False]
    assert [one.name.partition(": ")[2][:18] for one in failed] == ["cells of a 512x384", "cells of a 330x500"]
