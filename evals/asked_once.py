"""A segmenter that answers an equal prompt on one picture from memory, since variants of a method share points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grounding.segmenters.base import MaskCandidates, Segmenter
from grounding.types import FloatArray, PointPrompts

if TYPE_CHECKING:
    from PIL import Image


class AskedOnce:
    """Keep the candidates of every prompt on the current picture; a `Segmenter`.

    Args:
        segmenter: answers prompts that are new.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.name = segmenter.name
        self._segmenter = segmenter
        self._known: dict[tuple[object, ...], MaskCandidates] = {}

    def set_image(self, image: Image.Image) -> None:
        """Encode a picture and forget the prompts of the last one."""
        self._known = {}
        self._segmenter.set_image(image)

    def predict(
        self, prompts: PointPrompts, *, mask_input: FloatArray | None = None, multimask_output: bool = True
    ) -> MaskCandidates:
        """See `Segmenter.predict`."""
        shown = None if mask_input is None else mask_input.tobytes()
        key = (prompts.xy.tobytes(), prompts.label.tobytes(), prompts.box_xyxy, shown, multimask_output)
        if key not in self._known:
            self._known[key] = self._segmenter.predict(
                prompts, mask_input=mask_input, multimask_output=multimask_output
            )
        return self._known[key]
