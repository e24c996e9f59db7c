"""Views of a picture: the whole, and its four quarters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from grounding.images import MIN_SIDE
from grounding.types import BoolArray, FloatArray, Heatmap, PointPrompts, Segment


@dataclass(frozen=True)
class View:
    """A part of a picture that is looked at as a picture of its own.

    Attributes:
        box: (left, top, right, bottom) in pixels of the picture, right and bottom not included.
        image: RGB.
        size: (width, height) of the picture.
    """

    box: tuple[int, int, int, int]
    image: Image.Image = field(repr=False)
    size: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        """Whether the view is the picture itself."""
        return self.box == (0, 0, *self.size)

    def in_picture(self, segment: Segment) -> Segment:
        """A segment of the view as one of the picture."""
        if self.is_whole:
            return segment
        left, top, right, bottom = self.box
        mask: BoolArray = np.zeros((self.size[1], self.size[0]), np.bool_)
        mask[top:bottom, left:right] = segment.mask
        return replace(segment, mask=mask, points=self._moved(segment.points))

    def map_in_picture(self, heatmap: Heatmap) -> Heatmap:
        """A map of the view over the whole picture, 0 outside the view; cells keep their size to less than one."""
        if self.is_whole:
            return heatmap
        left, top, right, bottom = self.box
        height, width = heatmap.values.shape
        across, down = width / (right - left), height / (bottom - top)
        columns = ((np.arange(round(self.size[0] * across)) + 0.5) / across - left) * across
        rows = ((np.arange(round(self.size[1] * down)) + 0.5) / down - top) * down
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
        at = np.clip(rows, 0, height - 1).astype(int)[:, None], np.clip(columns, 0, width - 1).astype(int)[None]
        values: FloatArray = np.where(inside, heatmap.values[at], 0).astype(np.float32)
        return Heatmap(values, self.size, heatmap.stages)

    def _moved(self, points: PointPrompts) -> PointPrompts:
        shift = np.array(self.box[:2], np.float32)
        box = points.box_xyxy
        moved = None if box is None else tuple(side + by for side, by in zip(box, (*shift, *shift), strict=True))
        return replace(points, xy=points.xy + shift, box_xyxy=moved)


def views_of(image: Image.Image, multi_scale: bool) -> tuple[View, ...]:
    """The whole picture, and its quarters where wanted.

    VL-SAM (arXiv 2410.05963) takes H/2 x W/2 parts at the corners. Of an odd side the first part is the shorter.

    Args:
        image: RGB.
        multi_scale: with the quarters.
    """
    width, height = image.size
    boxes = [(0, 0, width, height)]
    if multi_scale and min(width, height) >= 2 * MIN_SIDE:
        x, y = width // 2, height // 2
        boxes += [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    return tuple(View(box, image if at == 0 else image.crop(box), image.size) for at, box in enumerate(boxes))
