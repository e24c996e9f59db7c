"""Several sources of maps as one, whatever each of them is."""

from __future__ import annotations

import numpy as np
import pytest
from bright_source import BrightCells
from PIL import Image

from grounding.ensemble import Ensemble, Member
from grounding.errors import MethodError
from grounding.maps.compose import lay
from grounding.methods import load_method, run_stages
from grounding.record_spec import RecordSpec
from grounding.source import MapSource
from grounding.types import WordKind

PICTURE = Image.new("RGB", (120, 90), (20, 20, 20))
PICTURE.paste((250, 250, 250), (70, 10, 110, 40))


def coarse_and_fine() -> Ensemble:
    plain, relative = load_method("plain-mean"), load_method("relative")
    coarse = BrightCells((3, 10), "coarse", "It is coarse")
    return Ensemble([Member(coarse, plain), Member(BrightCells((6, 8), "fine", None), relative)])


def test_every_member_makes_its_map_by_its_own_method() -> None:
    ensemble = coarse_and_fine()
    assert isinstance(ensemble, MapSource)
    assert (ensemble.name, ensemble.notice) == ("coarse+fine", "It is coarse")
    [maps] = ensemble.maps([PICTURE], ["the square"], RecordSpec())
    assert [(word.text, word.kind) for word in maps.words] == [("coarse", WordKind.MODEL), ("fine", WordKind.MODEL)]
    assert maps.direction == "model-to-image"
    shape = maps.grids[0].shape
    for member, row in zip(ensemble.members, maps.values[0, 0, 0], strict=True):
        spec = member.method.record_spec(10)
        source = BrightCells(member.source.shape)
        [recorded] = source.maps([PICTURE], ["the square"], spec)
        if spec.background_prompt is not None:
            [behind] = source.maps([PICTURE], [""], spec, spec.background_prompt)
            recorded = type(recorded)(**{**vars(recorded), "background": behind})
        own = run_stages(member.method, recorded)
        expected, _ = lay(own.values, (0.0, 0.0, 120.0, 90.0), shape, (120, 90))
        np.testing.assert_allclose(row.reshape(shape), expected, atol=1e-6)


def test_no_map_loses_cells() -> None:
    [maps] = coarse_and_fine().maps([PICTURE], ["square"], RecordSpec())
    upscale = load_method("relative").compose.upscale
    assert maps.grids[0].shape == (6 * upscale, max(10, 8 * upscale))
    assert maps.grids[0].box_xyxy == (0.0, 0.0, 120.0, 90.0)


def test_the_joined_map_lies_where_all_look() -> None:
    [maps] = coarse_and_fine().maps([PICTURE], ["square"], RecordSpec())
    heatmap = run_stages(load_method("ensemble"), maps)
    row, column = np.unravel_index(int(heatmap.values.argmax()), heatmap.values.shape)
    assert 70 < (column + 0.5) * 120 / heatmap.values.shape[1] < 110
    assert 10 < (row + 0.5) * 90 / heatmap.values.shape[0] < 40


def test_one_source_with_two_methods_is_told_apart() -> None:
    source = BrightCells()
    ensemble = Ensemble([Member(source, load_method(name)) for name in ("plain-mean", "relative")])
    assert ensemble.member_names == ("bright cells by plain-mean", "bright cells by relative")
    assert ensemble.notice == "It finds bright things only."


def test_a_method_for_one_model_is_refused_before_anything_runs() -> None:
    ensemble = coarse_and_fine()
    for name in ("default", "relative", "refam"):
        with pytest.raises(MethodError, match="is an ensemble, whose maps have no layers"):
            ensemble.maps([PICTURE], ["square"], load_method(name).record_spec(1))
    with pytest.raises(MethodError, match="is an ensemble"):
        ensemble.maps([PICTURE], ["square"], RecordSpec(), "Where is {expression}?")
    assert not any(member.source.calls for member in ensemble.members)
    with pytest.raises(ValueError, match="at least 2 members"):
        Ensemble([Member(BrightCells(), load_method("plain-mean"))])
