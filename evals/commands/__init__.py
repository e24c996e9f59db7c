"""Commands that the evaluation suite adds to the command line."""

from __future__ import annotations

from grounding.command import Command

SCENES = Command(
    "measure pointing and masks on drawn scenes with exact truth",
    "evals.commands.scenes:EvalScenesCommand",
)
CHAIR = Command(
    "captions against the objects their images show: CHAIR, recall, length, repetition, truncation curve",
    "evals.commands.chair:EvalChairCommand",
)
POPE = Command(
    "yes-no answers to POPE's questions, by any of four parsers",
    "evals.commands.pope:EvalPopeCommand",
)
AMBER = Command(
    "descriptions and yes-no answers to AMBER's queries, by its authors' rules",
    "evals.commands.amber:EvalAmberCommand",
)
COMPARE = Command(
    "compare two runs, or two files of captions: differences with intervals, tests, equal recall, equal length",
    "evals.commands.compare:EvalCompareCommand",
)
HALLUSION = Command(
    "yes-no answers to HallusionBench's questions",
    "evals.commands.hallusion:EvalHallusionCommand",
)
MMHAL = Command(
    "answers to MMHal-Bench, rated by a judge that you bring",
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
DIAGNOSE = Command(
    "where a model looks while it writes: attention shares by layer, head and token, sinks, real and invented objects",
    "evals.commands.diagnose:EvalDiagnoseCommand",
)
REPORT = Command(
    "one HTML file about one or several runs: figures, truncation curve, diagnostics, worst cases with pictures",
    "evals.commands.report:EvalReportCommand",
)
STEER = Command(
    "speed and memory of generate: plain, steered, PAI as published, VCD",
    "evals.commands.bench:BenchSteerCommand",
)
RUN = Command(
    "put a task to a model, steered or not, into a folder that can be gone on with",
    "evals.commands.run:EvalRunCommand",
)
JOIN = Command(
    "put the folders of a run's shards into one and score it",
    "evals.commands.run:EvalJoinCommand",
)
LAB = Command(
    "compare all steering methods on drawn scenes with planted habits, tuned alike, with paired intervals",
    "evals.commands.lab:LabCommand",
)
