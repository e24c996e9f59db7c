"""Check that the cells of a picture lie where a model's family claims, by probing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from grounding.errors import ModelError

if TYPE_CHECKING:
    from grounding.models.base import VLM
    from grounding.models.prepared import Prepared

BANDS_PER_CELL = 3  # of a picture that is probed, along each axis of its finest grid
FEWEST_BANDS = 32


def cells_lie(vlm: VLM, prepared: Prepared, index: int = 0) -> tuple[bool | None, str]:
    """Whether each cell moves with the part of the picture that its family claims, and what was measured.

    Args:
        vlm: the model.
        prepared: a batch of prompts with one picture each.
        index: which of them.

    Returns:
        (None, the reason) where probing cannot tell. What was measured names the passes and seconds that it took.
    """
    import numpy as np

    from grounding.models.probing.compare import compare
    from grounding.models.probing.family import probe

    layout = prepared.layouts[index]
    if layout.cross:
        return None, "probing finds cells among the tokens of a prompt, and here they are keys of cross-attention"
    (size,) = layout.image_sizes
    shapes = ", ".join(f"{rows}x{columns}" for rows, columns in (grid.shape for grid in layout.grids))
    bands = BANDS_PER_CELL * max(max(grid.shape) for grid in layout.grids)
    try:
        grids, movement = probe(vlm, size, bands=max(FEWEST_BANDS, bands))
    except ModelError as error:
        return None, f"probing cannot tell: {error}"
    ids = prepared.inputs["input_ids"][index].cpu().numpy()
    tokens = np.flatnonzero(ids == vlm.image_token_id)
    claimed = [replace(grid, positions=np.searchsorted(tokens, grid.positions)) for grid in layout.grids]
    both = compare(grids, claimed, size)
    measured = f"{movement.passes} passes of the vision tower in {movement.seconds:.1f} s"
    if both.agree:
        return True, f"{shapes} cells, at most {both.offset:.2f} cells off, {measured}"
    return False, (
        f"of the {shapes} cells claimed {both.missing} were not found, {both.foreign} others were, and {both.cells} "
        f"lie up to {both.offset:.2f} cells off, {measured}"
    )
