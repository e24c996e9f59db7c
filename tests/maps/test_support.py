from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.maps.support import VisualSupport, supports
from grounding.types import AttentionMaps, Word, WordKind

SIDE = 6


def maps(*rows: np.ndarray, heads: tuple[int, ...] = (), sinks: tuple[int, ...] = ()) -> AttentionMaps:
    """Rows [SIDE, SIDE] of words, those at `heads` marked; columns at `sinks` have a sink's residual stream."""
    values = np.stack([row.ravel() for row in rows])[None, None, None].astype(np.float32)
    phi = np.zeros((1, SIDE * SIDE), np.float32)
    phi[:, list(sinks)] = 25.0
    words = tuple(
        Word("word", (0, 4), (100 + i,), WordKind.CONTENT if i in heads else WordKind.STOP, i in heads)
        for i in range(len(rows))
    )
    grid = ImageGrid(np.arange(SIDE * SIDE), (SIDE, SIDE), (0.0, 0.0, 60.0, 60.0))
    keys = np.arange(SIDE * SIDE)
    return AttentionMaps(values, (3,), words, keys, (grid,), (60, 60), residual_sinks=phi)


def flat(mass: float) -> np.ndarray:
    return np.full((SIDE, SIDE), mass / SIDE**2)


def at(row: int, column: int, mass: float) -> np.ndarray:
    cells = np.zeros((SIDE, SIDE))
    cells[row : row + 2, column : column + 2] = mass / 4
    return cells


def test_a_noun_that_looks_like_a_stop_word_has_half_of_each_part() -> None:
    row = at(1, 1, 0.2) + flat(0.1)
    (found,) = supports([maps(row, heads=(0,))], maps(row, row))
    assert (found.image_mass_ratio, found.sharpness, found.value) == pytest.approx((0.5, 0.5, 0.5))


def test_more_and_sharper_attention_is_more_support() -> None:
    reference_words = maps(flat(0.2) + at(0, 0, 0.02), flat(0.2) + at(3, 3, 0.02))
    there, spread, absent = supports(
        [maps(at(1, 2, 0.6), heads=(0,)), maps(flat(0.5) + at(1, 2, 0.1), heads=(0,)), maps(flat(0.05), heads=(0,))],
        reference_words,
    )
    assert there.image_mass_ratio == pytest.approx(spread.image_mass_ratio) == pytest.approx(0.6 / 0.82)
    assert there.sharpness > 0.9 > 0.8 > spread.sharpness > absent.sharpness == 0
    assert there.value > spread.value > absent.value
    assert absent.image_mass_ratio == pytest.approx(0.05 / 0.27)


def test_attention_on_a_sink_is_no_support() -> None:
    sink = np.zeros((SIDE, SIDE))
    sink[5, 5] = 0.5
    column = (SIDE * SIDE - 1,)
    there, drained = supports(
        [
            maps(at(1, 1, 0.3) + flat(0.1) + sink, heads=(0,), sinks=column),
            maps(flat(0.01) + sink, heads=(0,), sinks=column),
        ],
        maps(flat(0.1) + sink, flat(0.1) + sink, sinks=column),
    )
    assert there.image_mass_ratio == pytest.approx(0.4 / 0.5, abs=0.01)
    assert drained.image_mass_ratio == pytest.approx(0.01 / 0.11, abs=0.01)


def test_a_place_that_every_word_looks_at_is_no_sink_by_that() -> None:
    """As in a caption whose nouns all name the one large thing."""
    row = flat(0.1)
    row[2, 2] += 0.5
    noun = row.copy()
    noun[2, 2] += 0.3
    (found,) = supports([maps(noun, heads=(0,))], maps(row, row, row))
    assert found.image_mass_ratio == pytest.approx(0.9 / 1.5)
    assert found.sharpness > 0.5


def test_maps_without_the_sinks_strength_are_refused() -> None:
    bare = replace(maps(flat(0.1), heads=(0,)), residual_sinks=None)
    with pytest.raises(MethodError, match="residual stream"):
        supports([bare], bare)


def test_only_the_nouns_own_rows_count() -> None:
    both = maps(at(0, 0, 0.9), at(3, 3, 0.3), heads=(1,))
    alone = maps(at(3, 3, 0.3), heads=(0,))
    assert supports([both], maps(flat(0.3))) == supports([alone], maps(flat(0.3)))


def test_the_value_is_the_geometric_mean_of_the_parts_that_are_there() -> None:
    assert VisualSupport(0.25, 0.64).value == pytest.approx(0.4)
    assert VisualSupport(0.5, 0.5, 0.32).value == pytest.approx(0.08 ** (1 / 3))
    assert VisualSupport(0.9, 0.9, 0.0).value == 0


def test_rows_without_attention_are_zero_and_finite() -> None:
    (found,) = supports([maps(flat(0), heads=(0,))], maps(flat(0)))
    assert found == VisualSupport(0.0, 0.0)
