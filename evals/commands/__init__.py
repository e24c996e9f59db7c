"""What the evaluation suite adds to the command line."""

from __future__ import annotations

from grounding.command import Command

SCENES = Command(
    "measure pointing and masks on drawn scenes with exact truth",
    "evals.commands.scenes:EvalScenesCommand",
)
PHOTOS = Command(
    "measure pointing, presence questions and captions on photos",
    "evals.commands.photos:EvalPhotosCommand",
)
RECORD = Command(
    "time and memory of recording attention, beside the plain kernel and eager attention",
    "evals.commands.bench:BenchRecordCommand",
)
SEGMENTER = Command(
    "masks of a segmenter on annotated photos, and its time",
    "evals.commands.bench:BenchSegmenterCommand",
)
