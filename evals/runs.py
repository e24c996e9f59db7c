"""The folder of one run of one task: what was asked of which model how, every answer, and the scores.

    OUT/manifest.json    what the run was made with; written before the first answer
    OUT/samples.jsonl    one line a sample, in the order of the samples
    OUT/scores.json      the scores; written when every sample has its line
    OUT/details.jsonl    what was counted of each answer, one line an answer that did not fail (if the task says)
    OUT/timings.jsonl    how long batches took; the only file, with the manifest, that differs between equal runs
    OUT/images/          pictures that are no files of their own: drawn, or from inside a data set

`manifest.json` is one object:
    task          name, version and options; `rebuild_task` makes the task of them again
    model         as it was asked for
    steering      null, or name and yaml (the steering file's text)
    config        everything that decides on the answers: what `config_hash` is the hash of
    config_hash   12 hexadecimal digits; a folder of another one is not gone on with
    samples       how many
    limit         what --limit said; 0 is all
    image_hash    over the names of the pictures, in order
    prompts       task (the words that the task brings itself), first (the first question as it was asked)
    seeds         samples (draw of --limit), decoding (draws of tokens), bootstrap
    image_root    folder that `image` of a sample is relative to; null means OUT itself
    versions      of the packages that decide on numbers
    start, end    ISO 8601 with zone; end is null while answers are missing

`samples.jsonl`: each line has the fields of `evals.tasks.base.Answer`: id, image, question, text, tokens, finished,
error, fields. An answer that failed has text "", tokens 0, finished false and its error in one sentence.

`scores.json`: task, version, config_hash, model, steering (the name, or null), samples, failed, finished (share of
answers that ended by themselves), tokens (mean an answer), and then what the task itself says (`Scored.data`): its
figures by name, `intervals` by name, `higher_is_better` by name.

`details.jsonl`: per answer an object with the sample's `id`; CHAIR says mentions, hallucinated, missed and length, a
yes-no task truth, says (true, false, null) and right.

`timings.jsonl`: per batch its number (batch), worker, samples, tokens (together), seconds (of generation alone), start.

While several processes or shards work, each appends to `samples.NUMBER-of-COUNT.jsonl`; whoever finds every sample
answered puts them together. Lines are on the disk before the next batch begins, nothing in them changes between two
runs of one configuration, and batches are cut from all samples before they are handed out: so a run that was killed
and started again, or done by another number of processes, leaves the same bytes in samples.jsonl and scores.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tasks.base import Answer, Comparable, Scored, Task
from evals.tasks.registry import task_class
from grounding import schema
from grounding.errors import EvalDataError, OutputError
from grounding.files import read_jsonl

MANIFEST, SAMPLES, SCORES = "manifest.json", "samples.jsonl", "scores.json"
DETAILS, TIMINGS, IMAGES = "details.jsonl", "timings.jsonl", "images"


@dataclass(frozen=True)
class RunFolder:
    """A folder, as it lies on the disk now."""

    path: Path

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            EvalDataError: there is none, or it is none of a run.
        """
        file = self.path / MANIFEST
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            asked = {"task", "config", "config_hash", "samples"} <= set(found)
        except FileNotFoundError:
            raise EvalDataError(
                f"{self.path} is no run folder, {MANIFEST} is missing: give a folder that 'grounding eval run' wrote"
            ) from None
        except (OSError, ValueError, TypeError):
            asked = False
        if not asked:
            raise EvalDataError(f"{file} does not describe a run: give a folder that 'grounding eval run' wrote")
        return dict(found)

    def answers(self) -> dict[str, Answer]:
        """Every answer that is there, also those of processes still at work, by id; of one id the last line counts.

        Raises:
            OutputError: a line is no answer.
        """
        found: dict[str, Answer] = {}
        # A worker's file goes when its lines stand in samples.jsonl, so while it is there its lines are newer.
        for file in (self.path / SAMPLES, *self.parts()):
            found |= {answer.id: answer for answer in read_answers(file)}
        return found

    def parts(self) -> list[Path]:
        """The files of single workers."""
        return sorted(self.path.glob("samples.*-of-*.jsonl"))

    def scores(self) -> dict[str, Any] | None:
        """The scores; None while there are none."""
        file = self.path / SCORES
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as wrong:
            raise EvalDataError(f"{file} are no scores of a run: remove it and run again") from wrong

    def image(self, answer: Answer) -> Path:
        """Where an answer's picture is, or was."""
        return Path(self.manifest().get("image_root") or self.path) / answer.image


def read_answers(file: Path) -> list[Answer]:
    """The answers of one file; none where it is missing, and a last line that was cut off is left out.

    Raises:
        OutputError: a line is no answer.
    """
    return [
        schema.build(Answer, line, f"line {number} of {file}", OutputError)
        for number, line in enumerate(read_jsonl(file), 1)
    ]


def rebuild_task(manifest: dict[str, Any], where: str | Path) -> Task:
    """The task of a manifest.

    Raises:
        EvalDataError: the task is unknown, of another version, or its options are wrong.
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
    """The differences b - a over the samples that both runs answered.

    Raises:
        EvalDataError: they are runs of different tasks, of a task that cannot compare, or share no answered sample.
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
