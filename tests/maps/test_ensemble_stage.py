"""Maps of several models joined into one, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from grounding.errors import MethodError
from grounding.layout import ImageGrid
from grounding.maps.ensemble import JoinModels
from grounding.types import AttentionMaps, Word, WordKind

SHAPE = (2, 3)
ROWS = np.array([[1.0, 0.2, 0.0, 0.4, 0.4, 0.1], [0.3, 1.0, 0.0, 0.9, 0.5, 0.2]], np.float32)


def maps_of(rows: np.ndarray) -> AttentionMaps:
    cells = np.arange(6)
    words = tuple(Word(f"model {i}", (0, 0), (6 + i,), WordKind.MODEL) for i in range(len(rows)))
    grid = ImageGrid(cells, SHAPE, (0.0, 0.0, 30.0, 20.0))
    return AttentionMaps(rows[None, None, None], (), words, cells, (grid,), (30, 20), direction="model-to-image")


def joined(stage: JoinModels, rows: np.ndarray = ROWS) -> np.ndarray:
    result, _ = stage(maps_of(rows))
    assert result.values.shape == (1, 1, 1, 1, 6)
    return result.values[0, 0, 0, 0]


def test_the_product_is_the_weighted_geometric_mean() -> None:
    np.testing.assert_allclose(joined(JoinModels(floor=0)), np.sqrt(ROWS[0] * ROWS[1]), rtol=1e-6)
    raised = 0.1 + 0.9 * ROWS.astype(np.float64)
    expected = raised[0] ** 0.25 * raised[1] ** 0.75
    np.testing.assert_allclose(joined(JoinModels(weights=(1, 3), floor=0.1)), expected, rtol=1e-6)


def test_ranks_are_averaged_with_ties_sharing_theirs() -> None:
    first, second = [5, 2, 0, 3.5, 3.5, 1], [2, 5, 0, 4, 3, 1]
    np.testing.assert_allclose(joined(JoinModels(how="ranks")), np.add(first, second) / 10, rtol=1e-6)
    peaked = np.stack([ROWS[0] ** 9, ROWS[1]])
    np.testing.assert_allclose(joined(JoinModels(how="ranks"), peaked), joined(JoinModels(how="ranks")), rtol=1e-6)
    assert np.abs(joined(JoinModels(), peaked) - joined(JoinModels())).max() > 0.1


@pytest.mark.parametrize("how", ["product", "ranks"])
def test_a_model_of_weight_0_does_not_count(how) -> None:
    alone, report = JoinModels(how=how, weights=(0, 2), floor=0)(maps_of(ROWS))
    order = np.argsort(alone.values[0, 0, 0, 0], kind="stable")
    np.testing.assert_array_equal(order, np.argsort(ROWS[1], kind="stable"))
    assert (report.dropped, report.weights) == ({0: "weight 0"}, (0.0, 1.0))


@pytest.mark.parametrize("how", ["product", "ranks"])
def test_a_model_without_a_map_leaves_the_choice_to_the_others(how) -> None:
    empty = np.stack([np.zeros(6, np.float32), ROWS[1]])
    assert int(joined(JoinModels(how=how), empty).argmax()) == int(ROWS[1].argmax())


def test_the_report_names_the_models_and_their_weights() -> None:
    _, report = JoinModels(how="ranks", weights=(1, 3))(maps_of(ROWS))
    assert report.detail == "mean of the ranks of the maps of model 0 and model 1"
    assert report.data == {"weights": {"model 0": 0.25, "model 1": 0.75}}


def test_what_does_not_fit_is_refused() -> None:
    for changes in ({"weights": (0.0, 0.0)}, {"weights": (-1.0, 2.0)}, {"floor": 1.0}):
        with pytest.raises(MethodError, match="stage 'ensemble' needs"):
            JoinModels(**changes)
    with pytest.raises(MethodError, match="has 3 weights for 2 models"):
        JoinModels(weights=(1, 1, 1))(maps_of(ROWS))
    with pytest.raises(MethodError, match="has 1 methods for 2 models"):
        JoinModels(methods=("auto",)).check_models(2)
