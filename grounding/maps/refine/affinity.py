"""How alike the image's cells are, by the vision tower's features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grounding.errors import MethodError
from grounding.maps.base import image_columns
from grounding.types import AttentionMaps, IntArray

Float64 = npt.NDArray[np.float64]


def cell_likeness(maps: AttentionMaps, stage: str, *, centre: bool) -> tuple[IntArray, Float64]:
    """Compare every cell with every other by the cosine of their features.

    Args:
        maps: recorded with `features`.
        stage: the asking stage's name, for messages.
        centre: take the cells' mean feature off first. Features behind a rectifier share a large mean, and all their
            cosines are near 1.

    Returns:
        The n sorted columns of image cells, and the cosines [n, n]; a cell without a feature is like none.

    Raises:
        MethodError: the features were not recorded.
    """
    if maps.features is None:
        raise MethodError(
            f"stage {stage!r} compares cells by the vision tower's features, but the maps carry none: record them "
            "(RecordSpec.features) from a vision-language model"
        )
    columns = image_columns(maps)
    features = maps.features[columns].astype(np.float64)
    if centre:
        features = features - features.mean(axis=0)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    return columns, unit @ unit.T
