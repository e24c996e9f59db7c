"""Commands that the evaluation suite adds to the command line."""

from __future__ import annotations

from grounding.command import Command

SCENES = Command(
    "measure pointing and masks on drawn scenes with exact ground truth",
    "evals.commands.scenes:EvalScenesCommand",
    group="Measure",
)
CHAIR = Command(
    "score captions by CHAIR, with recall, length, repetition and the truncation curve",
    "evals.commands.chair:EvalChairCommand",
    group="Measure",
)
POPE = Command(
    "score yes-no answers to POPE by any of four parsers",
    "evals.commands.pope:EvalPopeCommand",
    group="Measure",
)
AMBER = Command(
    "score descriptions and yes-no answers by AMBER's rules",
    "evals.commands.amber:EvalAmberCommand",
    group="Measure",
)
COMPARE = Command(
    "compare two runs, or two files of captions, paired by image",
    "evals.commands.compare:EvalCompareCommand",
    group="Measure",
)
HALLUSION = Command(
    "score yes-no answers to HallusionBench",
    "evals.commands.hallusion:EvalHallusionCommand",
    group="Measure",
)
MMHAL = Command(
    "score answers to MMHal-Bench with a judge model of your choice",
    "evals.commands.mmhal:EvalMMHalCommand",
    group="Measure",
)
PHOTOS = Command(
    "measure pointing, masks, POPE and CHAIR on annotated photos",
    "evals.commands.photos:EvalPhotosCommand",
    group="Measure",
)
RECORD = Command(
    "measure time and memory of recording, beside the plain kernel and eager attention",
    "evals.commands.bench:BenchRecordCommand",
    group="Benchmark",
)
COMPILED = Command(
    "measure what recording costs a decode step of a compiled model",
    "evals.commands.bench:BenchCompiledCommand",
    group="Benchmark",
)
FLOW = Command(
    "measure time and memory of attention flow by rows, beside products of N x N matrices",
    "evals.commands.bench:BenchFlowCommand",
    group="Benchmark",
)
JOINT = Command(
    "measure time and memory of maps of a diffusion transformer, beside plain, written-out softmax and a peer",
    "evals.commands.bench:BenchJointCommand",
    group="Benchmark",
)
LINEAR = Command(
    "measure what rows of linear attention cost a pass, and how exact they are",
    "evals.commands.bench:BenchLinearCommand",
    group="Benchmark",
)
SEGMENTER = Command(
    "measure masks from one point, and their time, on annotated photos",
    "evals.commands.bench:BenchSegmenterCommand",
    group="Benchmark",
)
DIAGNOSE = Command(
    "show where a model attends while it generates, by layer, head, token and object",
    "evals.commands.diagnose:EvalDiagnoseCommand",
    group="Measure",
)
REPORT = Command(
    "write one offline HTML file about one or several runs",
    "evals.commands.report:EvalReportCommand",
    group="Measure",
)
STEER = Command(
    "measure speed and memory of steered generation",
    "evals.commands.bench:BenchSteerCommand",
    group="Benchmark",
)
NLTK_DATA = Command(
    "bring the data with which CHAIR and AMBER give published figures",
    "evals.commands.nltk_data:EvalNltkDataCommand",
    group="Measure",
)
RUN = Command(
    "run a task with a model, steered or not; resumes after an interruption",
    "evals.commands.run:EvalRunCommand",
    group="Measure",
)
JOIN = Command(
    "join the folders of a run's shards and score them",
    "evals.commands.run:EvalJoinCommand",
    group="Measure",
)
LAB = Command(
    "compare all steering methods on drawn scenes with planted co-occurrences",
    "evals.commands.lab:LabCommand",
    group="Measure",
)
CANDIDATES = Command(
    "measure masks by kind of candidates, and how well the confidence tells right from wrong",
    "evals.commands.candidates:EvalCandidatesCommand",
    group="Measure",
)
CALIBRATE_CONFIDENCE = Command(
    "fit how sure a mask is on annotated pictures, and write a method file",
    "evals.commands.candidates:CalibrateConfidenceCommand",
    group="Calibrate",
)
