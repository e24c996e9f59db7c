"""The tracker of SAM 3 in transformers (`Sam3TrackerModel`), the part of SAM 3 that takes points.

`Sam3Model` takes words and boxes instead of points, so it is not a segmenter in the sense of this package.
"""

from __future__ import annotations

from grounding.segmenters.sam2 import Sam2Segmenter


class Sam3TrackerSegmenter(Sam2Segmenter):
    """The tracker of "SAM 3: Segment Anything with Concepts" (Meta, 2025), for example `facebook/sam3`.

    Its interface is SAM 2's; only input size, decoder frame and weights differ.
    """

    model_class = "Sam3TrackerModel"
    config_types = ("sam3_tracker", "sam3_tracker_video", "sam3_video")
