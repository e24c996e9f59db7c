"""Every family hidden: probing finds the layout that the family claims, and the tokenizer its words."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image

from grounding.errors import ModelError
from grounding.layout import ImageGrid
from grounding.models.base import VLM
from grounding.models.probing import family as probing
from grounding.models.probing.family import Probed, probe
from grounding.models.registry import family_class

NOT_SHOWN = ("blip-2", "instructblip", "mllama", "phi4_multimodal")
"""Families whose decoder is not shown cells as it is called: query tokens, cross-attention, or a decoder that places
image features itself."""
SHOWN = {name: family_class(kind) for name in FAMILIES if (kind := name.partition("/")[0]) not in NOT_SHOWN}
BANDS = 32
PROMPT = "Where is {expression}?"


@cache
def known(name: str) -> VLM:
    return FAMILIES[name].vlm(name.partition("/")[0])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Probed, "bands", BANDS)


def hidden(name: str) -> Probed:
    vlm = known(name)
    return Probed(vlm.model, vlm.processor)


def check_grids(found: tuple[ImageGrid, ...], claimed: tuple[ImageGrid, ...]) -> None:
    assert [grid.shape for grid in found] == [grid.shape for grid in claimed]
    for one, other in zip(found, claimed, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        assert one.picture == other.picture
        x0, y0, x1, y1 = other.box_xyxy
        cell = np.tile([(x1 - x0) / other.shape[1], (y1 - y0) / other.shape[0]], 2)
        assert (np.abs(np.subtract(one.box_xyxy, other.box_xyxy)) < 0.3 * cell).all()


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_a_model_that_does_not_show_its_cells_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"has no chat template and its|gives its decoder no embeddings of image"):
        hidden(name).prepare([Image.new("RGB", FAMILIES[name].sizes[0])], ["dog"])


@pytest.mark.parametrize("name", SHOWN)
def test_a_hidden_family_has_the_same_layout_and_words(name: str) -> None:
    picture = Image.new("RGB", FAMILIES[name].sizes[0])
    claimed, found = (vlm.prepare([picture], ["the red dog"], PROMPT) for vlm in (known(name), hidden(name)))
    check_grids(found.layouts[0].grids, claimed.layouts[0].grids)
    assert found.words == claimed.words
    assert torch.equal(found.inputs["input_ids"], claimed.inputs["input_ids"])
    np.testing.assert_array_equal(found.layouts[0].image, claimed.layouts[0].image)


@pytest.mark.parametrize("name", [name for name, adapter in SHOWN.items() if adapter.takes_several])
def test_a_hidden_family_has_the_same_layout_of_two_pictures(name: str) -> None:
    pictures = [Image.new("RGB", FAMILIES[name].sizes[1])] * 2
    claimed, found = (vlm.prepare([pictures], ["dog"], PROMPT) for vlm in (known(name), hidden(name)))
    check_grids(found.layouts[0].grids, claimed.layouts[0].grids)


@pytest.mark.parametrize("name", ["deepseek_vl", "deepseek_vl_hybrid", "llama4"])
@pytest.mark.parametrize("size", [(200, 37), (37, 190), (160, 70)])
def test_cells_of_padding_are_placed_around_long_pictures(name: str, size: tuple[int, int]) -> None:
    (layout,) = known(name).prepare([Image.new("RGB", size)], ["dog"]).layouts
    (found,) = hidden(name).prepare([Image.new("RGB", size)], ["dog"]).layouts
    check_grids(found.grids, layout.grids)


def test_without_a_chat_template_the_pictures_stand_before_the_prompt() -> None:
    vlm = hidden("paligemma")
    assert vlm.notice is not None
    assert "has no chat template: its pictures stand before the bare words" in vlm.notice
    prepared = vlm.prepare([Image.new("RGB", (60, 40))] * 2, ["dog", "the red dog"], PROMPT)
    texts = vlm.tokenizer.batch_decode(prepared.inputs["input_ids"])
    assert [text.rpartition("<image>")[2] for text in texts] == [
        "<bos>Where is dog?\n",
        "<bos>Where is the red dog?\n",
    ]


def test_a_layout_is_probed_once_for_a_model_and_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probed: list[Any] = []
    monkeypatch.setattr(probing, "probe", lambda *args: probed.append(args[1:3]) or probe(*args))
    small, large = Image.new("RGB", (60, 40)), Image.new("RGB", (90, 60))
    vlm = hidden("llava")
    for pictures in ([small], [small, large], [small]):
        first = vlm.prepare(pictures, ["dog"] * len(pictures)).layouts[0]
    assert probed == [((60, 40), True), ((90, 60), True)]
    assert len(list((tmp_path / "vlm-grounding" / "layouts").iterdir())) == 2
    assert hidden("llava").prepare([small], ["dog"]).layouts[0] == first  # another process reads the file
    assert len(probed) == 2
    other = FAMILIES["llava"].vlm("llava", seed=1)
    Probed(other.model, other.processor).prepare([small], ["dog"])  # other weights
    exact = known("llava/exact size")
    Probed(vlm.model, exact.processor).prepare([small], ["dog"])  # other settings of the processor
    assert len(probed) == 4
    for file in (tmp_path / "vlm-grounding" / "layouts").iterdir():
        file.write_text("{")
    assert hidden("llava").prepare([small], ["dog"]).layouts[0] == first  # a broken file is probed again
    assert len(probed) == 5
