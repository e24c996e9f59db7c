"""The folder of one run of one task.

    OUT/manifest.json    what the run was made with; written before the first answer
    OUT/samples.jsonl    one line per sample, in the order of the samples
    OUT/scores.json      the scores; written when every sample has its line
    OUT/details.jsonl    what was counted in each answer that did not fail (if the task has details)
    OUT/timings.jsonl    how long each batch took; only this file and the manifest differ between equal runs
    OUT/images/          pictures that are not files: drawn, or from inside a data set

`manifest.json` is one object:
    task          name, version and options; `rebuild_task` makes the task from them
    model         as it was asked for
    steering      null, or name and yaml (the steering file's text)
    config        everything that decides the answers: what `config_hash` is the hash of
    config_hash   12 hexadecimal digits; a folder with another hash is refused if it has an answer
    samples       how many
    limit         of --limit; 0 is all
    image_hash    over the names of the pictures, in order
    prompts       task (the task's own prompt), first (the first question as it was asked)
    seeds         samples (draw of --limit), decoding (draws of tokens), bootstrap
    image_root    folder that `image` of a sample is relative to; null means OUT itself
    versions      of the packages that can change numbers
    start, end    ISO 8601 with zone; end is null while answers are missing

`samples.jsonl`: each line has the fields of `evals.task.Answer`: id, image, question, text, tokens, finished,
error, fields, image_hash. An answer that failed has text "", tokens 0, finished false and its error in one sentence.

`scores.json`: task, version, config_hash, model, steering (the name, or null), samples, failed, finished (share of
answers that ended before the length limit), tokens (mean per answer), then the task's own (`Scored.data`): its
figures by name, `intervals` by name, `higher_is_better` by name.

`details.jsonl`: per answer an object with the sample's `id`; CHAIR has mentions, hallucinated, missed and length, a
yes-no task has truth, says (true, false, null) and right.

`timings.jsonl`: per batch its number (batch), worker, samples, tokens (together), seconds (of generation alone), start.

Several processes or shards each append to their own `samples.NUMBER-of-COUNT.jsonl`, which they hold a lock on; the one
that finds every sample answered merges the files. A batch's lines are on the disk before the next batch begins, lines
hold nothing that changes between two runs of one configuration, and batches are cut from all samples before workers
divide them. So a run that was killed and resumed, or divided among another number of processes, leaves the same bytes
in samples.jsonl and scores.json.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.task import Answer, Comparable, Scored, Task
from evals.tasks.registry import task_class
from grounding import schema
from grounding.errors import EvalDataError, OutputError
from grounding.files import read_json
from grounding.runs.folder import EVALUATION
from grounding.runs.records import RecordLog

MANIFEST, SAMPLES, SCORES = EVALUATION.description, EVALUATION.records, "scores.json"
DETAILS, TIMINGS, IMAGES = "details.jsonl", "timings.jsonl", "images"


@dataclass(frozen=True)
class RunFolder:
    """Read a run's folder as it is on the disk now."""

    path: Path

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            EvalDataError: there is none, or it does not describe a run.
        """
        file = self.path / MANIFEST
        refusal = EvalDataError(f"{file} does not describe a run: give a folder that 'grounding eval run' wrote")
        missing = EvalDataError(
            f"{self.path} is no run folder, {MANIFEST} is missing: give a folder that 'grounding eval run' wrote"
        )
        found = read_json(file, lambda wrong: missing if isinstance(wrong, FileNotFoundError) else refusal)
        if not isinstance(found, dict) or not {"task", "config", "config_hash", "samples"} <= set(found):
            raise refusal
        return found

    def answers(self) -> dict[str, Answer]:
        """Every answer by id, also of workers that are still running; the last line of an id counts.

        Raises:
            OutputError: a line is not an answer.
        """
        found: dict[str, Answer] = {}
        # A worker's file is removed when samples.jsonl holds its lines, so an existing one is newer.
        for file in (self.path / SAMPLES, *self.parts()):
            found |= open_answers(file).records
        return found

    def parts(self) -> list[Path]:
        """The files of single workers."""
        return sorted(self.path.glob("samples.*-of-*.jsonl"))

    def scores(self) -> dict[str, Any] | None:
        """The scores; None while there are none.

        Raises:
            EvalDataError: the file does not hold scores.
        """
        file = self.path / SCORES
        if not file.exists():
            return None
        refusal = EvalDataError(f"{file} are no scores of a run: remove it and run again")
        found = read_json(file, lambda wrong: refusal)
        if not isinstance(found, dict):
            raise refusal
        return found

    def image(self, answer: Answer) -> Path:
        """Where an answer's picture is, or was."""
        return Path(self.manifest().get("image_root") or self.path) / answer.image


def open_answers(file: Path) -> RecordLog[Answer]:
    """Open a file of answers, to read and to extend it; a missing file has none.

    Raises:
        OutputError: a line is not an answer.
    """
    return RecordLog(
        file,
        lambda value, where: schema.build(Answer, value, where, OutputError),
        lambda answer: answer.id,
        asdict,
    )


def rebuild_task(manifest: dict[str, Any], where: str | Path) -> Task:
    """Make the task that a manifest describes.

    Raises:
        EvalDataError: the task is unknown or has another version, or its options are wrong.
    """
    said = schema.as_mapping(manifest["task"], f"{where}: task", EvalDataError)
    kind = task_class(str(said.get("name")))
    if said.get("version") != kind.version:
        raise EvalDataError(
            f"{where} is a run of version {said.get('version')} of the task {kind.name}, but this is version "
            f"{kind.version}: run it again"
        )
    return schema.build(kind, said.get("options"), f"{where}: task", EvalDataError)


def compare_runs(a: RunFolder, b: RunFolder, seed: int = 0) -> Scored:
    """Compare two runs of one task: the differences b - a over the samples that both answered.

    Args:
        a: the run to compare with.
        b: the other run.
        seed: of the bootstrap.

    Raises:
        EvalDataError: the tasks differ or cannot compare, or no sample was answered by both.
    """
    one, other = a.manifest(), b.manifest()
    names = [manifest["task"].get("name") for manifest in (one, other)]
    if names[0] != names[1]:
        raise EvalDataError(f"{a.path} is a run of {names[0]} and {b.path} of {names[1]}: give two runs of one task")
    task = rebuild_task(one, a.path / MANIFEST)
    rebuild_task(other, b.path / MANIFEST)  # refuses another version
    if not isinstance(task, Comparable):
        raise EvalDataError(f"runs of the task {names[0]} cannot be compared: compare their scores.json")
    first, second = (
        {key: answer for key, answer in folder.answers().items() if answer.error is None} for folder in (a, b)
    )
    shared = [key for key in first if key in second]
    if not shared:
        raise EvalDataError(f"{a.path} and {b.path} share no answered sample: give two runs over the same data")
    asked = next((key for key in shared if first[key].fields != second[key].fields), None)
    if asked is not None:
        raise EvalDataError(
            f"the sample {asked} has another truth in {b.path} than in {a.path}: give two runs over the same data"
        )
    pairs = ((key, first[key].image_hash, second[key].image_hash) for key in shared)
    seen = next((key for key, *hashes in pairs if None not in hashes and len(set(hashes)) > 1), None)
    if seen is not None:
        raise EvalDataError(
            f"the sample {seen} was asked about another picture in {b.path} than in {a.path}: give two runs over the "
            "same data"
        )
    found = task.compare([first[key] for key in shared], [second[key] for key in shared], seed)
    data = {
        **found.data,
        "of": names[0],
        "only_a": len(first) - len(shared),
        "only_b": len(second) - len(shared),
        "runs": {key: _run_json(manifest) for key, manifest in (("a", one), ("b", other))},
    }
    return Scored(data, f"A {_called(one, a)}, B {_called(other, b)}\n\n{found.text}")


def _run_json(manifest: dict[str, Any]) -> dict[str, Any]:
    steering = manifest.get("steering") or {}
    return {
        "model": manifest.get("model"),
        "steering": steering.get("name"),
        "config_hash": manifest["config_hash"],
    }


def _called(manifest: dict[str, Any], folder: RunFolder) -> str:
    steering = (manifest.get("steering") or {}).get("name", "no steering")
    return f"{folder.path.name} ({manifest.get('model')}, {steering})"
