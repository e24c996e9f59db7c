"""What the evaluation suite adds to the command line."""

from __future__ import annotations

from grounding.command import Command

SCENES = Command(
    "measure pointing and masks on drawn scenes with exact truth",
    "evals.commands.scenes:EvalScenesCommand",
)
CHAIR = Command(
    "score captions against the objects their images show: CHAIR, recall, length, repetition, truncation curve",
    "evals.commands.chair:EvalChairCommand",
)
POPE = Command(
    "score yes-no answers to POPE's questions, by any of four parsers",
    "evals.commands.pope:EvalPopeCommand",
)
AMBER = Command(
    "score descriptions and yes-no answers to AMBER's queries, by its authors' rules",
    "evals.commands.amber:EvalAmberCommand",
)
COMPARE = Command(
    "compare two files of captions image by image: differences with intervals, tests, equal recall, equal length",
    "evals.commands.compare:EvalCompareCommand",
)
HALLUSION = Command(
    "score yes-no answers to HallusionBench's questions",
    "evals.commands.hallusion:EvalHallusionCommand",
)
MMHAL = Command(
    "rate answers to MMHal-Bench by a judge that you bring",
    "evals.commands.mmhal:EvalMMHalCommand",
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
STEER = Command(
    "speed and memory of generate: plain, steered, PAI as published, VCD",
    "evals.commands.bench:BenchSteerCommand",
)
