"""Checks of one loaded model on the user's own weights: words, recording, steering, and where its cells lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from grounding.doctor import EXPRESSIONS, Check, generation_unchanged, logits_unchanged, one_line, rows_equal_eager
from grounding.doctor_cells import cells_lie

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM
    from grounding.models.prepared import Prepared

SIZES = ((512, 384), (330, 500))
"""(width, height) in pixels of the pictures, long and tall."""
DRAWN = ("the red circle left of the blue cross", "circle")
"""Expressions for models that know drawn scenes alone."""
GAIN = 4.0


def check_weights(vlm: VLM) -> list[Check]:
    """Check one loaded model.

    Rows are compared with eager attention in the model's own number format; the allowed difference is that of one layer
    times the number of layers.

    Args:
        vlm: the model, of a known family or probed.

    Returns:
        The checks in order. A check that cannot run fails with the reason.
    """
    name = vlm.name
    pictures = [_noise(size, seed) for seed, size in enumerate(SIZES)]
    try:
        prepared = vlm.prepare(pictures, _expressions(vlm))
    except Exception as error:
        return [Check(f"{name}: words and cells are found", False, one_line(error))]
    cells = sum(len(grid.positions) for layout in prepared.layouts for grid in layout.grids)
    checks = [Check(f"{name}: words and cells are found", *_spelt(vlm, prepared, cells))]
    properties: tuple[tuple[str, Callable[[VLM, Prepared], tuple[bool | None, str]]], ...] = (
        ("rows equal eager attention", _rows),
        ("logits are unchanged by recording", logits_unchanged),
        ("generation is unchanged by recording", generation_unchanged),
        ("steering acts, and a gain of 1 changes nothing", _steers),
        *(
            (f"cells of a {w}x{h} picture lie where it is seen", partial(cells_lie, index=index))
            for index, (w, h) in enumerate(SIZES)
        ),
    )
    for what, holds in properties:
        try:
            passed, detail = holds(vlm, prepared)
        except Exception as error:  # a broken installation can raise anything
            passed, detail = False, one_line(error)
        checks.append(Check(f"{name}: {what}", passed, detail))
    return checks


def _expressions(vlm: VLM) -> tuple[str, str]:
    """Two expressions of different length, in words that the model knows."""
    ids = vlm.tokenizer(" ".join(EXPRESSIONS), add_special_tokens=False)["input_ids"]
    return EXPRESSIONS if vlm.tokenizer.unk_token_id not in ids else DRAWN


def _spelt(vlm: VLM, prepared: Prepared, cells: int) -> tuple[bool, str]:
    """Whether each word's tokens spell it."""
    count = 0
    for words, ids in zip(prepared.words, prepared.inputs["input_ids"], strict=True):
        for word in words[:-1]:  # the last stands for the prompt's end
            count += 1
            text = vlm.tokenizer.decode(ids[list(word.positions)]).strip()
            if word.positions and word.text not in text:
                return False, f"the tokens of the word {word.text!r} spell {text!r}"
    return True, f"{count} words, {cells} cells in a batch of 2"


def _rows(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    from grounding.attention.rows import TOLERANCE

    # Both passes round each layer's output in their own way, and the next layer reads it.
    return rows_equal_eager(vlm, prepared, TOLERANCE[vlm.model.dtype] * vlm.layer_count)


def _steers(vlm: VLM, prepared: Prepared) -> tuple[bool, str]:
    import torch

    from grounding.steering.base import GenerationContext
    from grounding.steering.decoding import Decoding
    from grounding.steering.editor import applied
    from grounding.steering.modulation import Renormalise, Values

    context = GenerationContext(vlm, [_noise(size, 0) for size in SIZES], _expressions(vlm), prepared, Decoding())
    found = []
    with torch.inference_mode():
        plain = vlm.model(**prepared.inputs, use_cache=False).logits[:, -1]
        for gain in (1.0, GAIN):
            # Where every key is of the picture, a renormalised gain changes nothing.
            with applied(Values(gain=gain) if vlm.map_attention == "cross" else Renormalise(gain=gain), context):
                found.append(vlm.model(**prepared.inputs, use_cache=False).logits[:, -1])
    if not torch.equal(found[0], plain):
        return False, f"a gain of 1 moves logits by up to {float((found[0] - plain).abs().max()):.1e}"
    moved = float((found[1] - plain).abs().max())
    return moved > 0, f"a gain of {GAIN:g} on image keys moves logits by up to {moved:.2g}"


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)
