"""Run a task on a model, batch by batch into a folder, and resume an interrupted run; see `evals.runs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.answering import ImageStore, answer_batch
from evals.inputs import refuse_empty
from evals.plan import Plan, Worker, choose, config_of, samples_hash
from evals.runs import DETAILS, IMAGES, MANIFEST, SAMPLES, SCORES, TIMINGS, RunFolder, open_answers, rebuild_task
from evals.task import Answer, Sample, Scored, SelfAnswering, StoredPicture, Task, image_hash
from grounding import schema
from grounding.errors import EvalDataError, OutputError
from grounding.files import append_jsonl, read_jsonl, write_bytes, write_json
from grounding.runs.attempts import cut
from grounding.runs.folder import EVALUATION
from grounding.runs.lock import hold
from grounding.runs.provenance import short_hash, versions
from grounding.runs.records import write_records

if TYPE_CHECKING:
    from grounding.models.base import VLM

DIGITS = 6


@dataclass(frozen=True)
class Run:
    """A run of a task, unfinished or finished.

    Attributes:
        folder: where it is.
        task: what is measured.
        samples: of this run, in order.
        manifest: the content of `manifest.json`.
    """

    folder: RunFolder
    task: Task
    samples: tuple[Sample, ...]
    manifest: Mapping[str, Any]

    @classmethod
    def begin(cls, task: Task, plan: Plan, out: Path) -> Run:
        """Plan a run, or find the one to resume. Nothing is written yet.

        Raises:
            EvalDataError: the task's data cannot be used.
            ModelError: the model's folder is missing.
            OutputError: the folder cannot be written to, or holds a run of another configuration, of other pictures or
                of another kind. A run that failed on all samples is none: the corrected command takes its folder.
        """
        EVALUATION.check(out)
        folder = RunFolder(out)
        samples = choose(task, plan.limit, plan.seed)
        manifest = _manifest(task, plan, samples, ImageStore.of(samples, out))
        if (out / MANIFEST).exists() and not _came_to_nothing(folder, manifest):
            before = folder.manifest()
            _refuse_another(out, before, manifest)
            _refuse_other_pictures(out, samples, folder.answers())
            manifest |= {"versions": before["versions"], "start": before["start"], "end": before["end"]}
        elif (out / SAMPLES).exists() and not (out / MANIFEST).exists():
            raise OutputError(f"{out} holds {SAMPLES} but no {MANIFEST}, so it is no run: choose another --out")
        return cls(folder, task, samples, manifest)

    @classmethod
    def open(cls, folder: RunFolder) -> Run:
        """Open an earlier run, with the task that its manifest describes.

        Raises:
            EvalDataError: the folder is not a run's, or the task's data is missing or has changed.
        """
        manifest = folder.manifest()
        task = rebuild_task(manifest, folder.path / MANIFEST)
        samples = choose(task, manifest["limit"], manifest["seeds"]["samples"])
        if samples_hash(samples) != manifest["config"]["samples"]:
            raise EvalDataError(
                f"the data of {folder.path} has changed since it was run: put back what {MANIFEST} names, or run it "
                "again"
            )
        return cls(folder, task, samples, manifest)

    def answered(self) -> list[Answer | None]:
        """One answer per sample; None where it has none yet."""
        found = self.folder.answers()
        return [found.get(one.id) for one in self.samples]

    def left(self, worker: Worker, size: int) -> list[tuple[int, tuple[Sample, ...]]]:
        """List a worker's batches in which an answer is missing or failed, with their numbers.

        A batch is run again as a whole, because padding can change generated text.
        """
        answers = zip(self.samples, self.answered(), strict=True)
        good = {
            one.id
            for one, answer in answers
            if answer is not None
            and answer.error is None
            and (answer.image_hash is not None or not isinstance(one.picture, Path | StoredPicture))
        }
        every = list(enumerate(cut(self.samples, size)))[worker.number :: worker.count]
        return [(number, batch) for number, batch in every if not all(one.id in good for one in batch)]

    def work(
        self,
        todo: Sequence[tuple[int, tuple[Sample, ...]]],
        vlm: VLM,
        plan: Plan,
        worker: Worker,
        report: Callable[[Sequence[Answer]], None] = lambda answers: None,
    ) -> None:
        """Answer batches. The answers of each are on the disk before the next begins.

        Args:
            todo: from `left`.
            vlm: the model.
            plan: of the run.
            worker: which of several processes this is.
            report: called with the answers of each batch.

        Raises:
            MethodError: the steering does not fit the model or the decoding; nothing is written.
            OutputError: the folder cannot be written to.
            GroundingError: one of `grounding.errors.FATAL`.
        """
        from grounding.steering.generate import check_steering

        if plan.steering is not None:
            check_steering(plan.steering, vlm, plan.decoding)
        out = self.folder.path
        if not (out / MANIFEST).exists() or self.manifest["end"] or _is_another(self.folder.manifest(), self.manifest):
            write_json(out / MANIFEST, {**self.manifest, "end": None})
        image_store = ImageStore.of(self.samples, out)
        own = self.task.answerer(vlm, plan) if isinstance(self.task, SelfAnswering) else None
        log = open_answers(out / worker.file)
        for number, batch in todo:
            started, clock = datetime.now().astimezone(), time.perf_counter()
            answers = answer_batch(vlm, batch, image_store, plan.steering, plan.decoding, own)
            seconds = time.perf_counter() - clock
            for answer in answers:
                log.add(answer)
            took = {
                "batch": number,
                "worker": worker.number,
                "samples": len(batch),
                "tokens": sum(one.tokens for one in answers),
                "seconds": round(seconds, DIGITS),
                "start": started.isoformat(timespec="seconds"),
            }
            append_jsonl(out / worker.file.replace("samples", "timings", 1), took)
            report(answers)

    def finish(self) -> tuple[dict[str, Any], Scored]:
        """Put the answers in order and score them. Finishing again changes nothing.

        Returns:
            The content of `scores.json`, and the task's scores.

        Raises:
            EvalDataError: a sample has no answer yet, all samples failed, or the task cannot score the answers.
        """
        with hold(self.folder.path, "finish", wait=True):
            return self._finish()

    def _finish(self) -> tuple[dict[str, Any], Scored]:
        answers = [one for one in self.answered() if one is not None]
        if len(answers) < len(self.samples):
            raise EvalDataError(
                f"{self.folder.path} has answers to {len(answers)} of its {len(self.samples)} samples: run the same "
                "command again, or join the folders of the other shards"
            )
        good = [one for one in answers if one.error is None]
        if not good:
            raise EvalDataError(f"none of the {len(answers)} samples was answered; the first: {answers[0].error}")
        refuse_empty([one.text for one in good], self.folder.path)
        out = self.folder.path
        scored = self.task.score(good, out, self.manifest["seeds"]["bootstrap"])
        scores = {
            "task": self.task.name,
            "version": self.task.version,
            "config_hash": self.manifest["config_hash"],
            "model": self.manifest["model"],
            "steering": (self.manifest["steering"] or {}).get("name"),
            "samples": len(answers),
            "failed": len(answers) - len(good),
            "finished": round(sum(one.finished for one in good) / len(good), DIGITS),
            "tokens": round(sum(one.tokens for one in good) / len(good), DIGITS),
            **scored.data,
        }
        write_records(out / SAMPLES, [asdict(one) for one in answers])
        if scored.details:
            write_records(out / DETAILS, scored.details)
        write_json(out / SCORES, scores)
        write_json(out / MANIFEST, {**self.manifest, "end": self.folder.manifest()["end"] or _now()})
        self._tidy(answers)
        return scores, scored

    def _tidy(self, answers: Sequence[Answer]) -> None:
        """Merge the workers' timings, and remove their answers, which the whole file holds now."""
        whole = {one.id: one for one in answers}
        for file in self.folder.parts():
            if any(whole.get(id) != answer for id, answer in open_answers(file).records.items()):
                continue  # its worker has added answers since, and will finish the run again
            file.unlink(missing_ok=True)
            times = file.with_name(file.name.replace("samples", "timings", 1))
            for line in read_jsonl(times):
                append_jsonl(self.folder.path / TIMINGS, line)
            times.unlink(missing_ok=True)


def join(folders: Sequence[RunFolder], out: Path) -> Run:
    """Merge shards that were run in separate folders into one folder.

    Args:
        folders: of one configuration; together they answer every sample.
        out: the merged folder; may be one of `folders`.

    Returns:
        The merged run, ready for `Run.finish`.

    Raises:
        EvalDataError: an answer is missing.
        OutputError: the configurations differ, or the folder cannot be written to or holds another run.
    """
    EVALUATION.check(out)
    first = Run.open(folders[0])
    for other in folders[1:]:
        _refuse_another(other.path, other.manifest(), first.manifest)
    if (out / MANIFEST).exists():
        _refuse_another(out, RunFolder(out).manifest(), first.manifest)
    found: dict[str, Answer] = {}
    for folder in folders:
        # An answer replaces a failure, never the other way round.
        found |= {key: one for key, one in folder.answers().items() if key not in found or one.error is None}
    missing = [one.id for one in first.samples if one.id not in found]
    if missing:
        raise EvalDataError(
            f"the {len(folders)} folders have answers to {len(found)} of {len(first.samples)} samples: run the shards "
            "that are missing, and give their folders too"
        )
    run = Run(RunFolder(out), first.task, first.samples, {**first.manifest, "end": None})
    write_json(out / MANIFEST, run.manifest)
    write_records(out / SAMPLES, [asdict(found[one.id]) for one in first.samples])
    for folder in folders:
        _copy_pictures(folder.path, out)
    return run


def _manifest(task: Task, plan: Plan, samples: Sequence[Sample], image_store: ImageStore) -> dict[str, Any]:
    config = config_of(task, samples, plan)
    return {
        "task": {"name": task.name, "version": task.version, "options": schema.plain(task)},
        "model": plan.model,
        "steering": {"name": plan.steering.name, "yaml": plan.steering.to_yaml()} if plan.steering else None,
        "config": config,
        "config_hash": short_hash(config, 12),
        "samples": len(samples),
        "limit": plan.limit,
        "image_hash": short_hash([one.image for one in samples], 16),
        "prompts": {"task": task.prompt, "first": samples[0].question},
        "seeds": {"samples": plan.seed, "decoding": plan.decoding.seed, "bootstrap": plan.seed},
        "image_root": str(image_store.root) if image_store.root else None,
        "versions": versions(),
        "start": _now(),
        "end": None,
    }


def _is_another(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return bool(before["config_hash"] != now["config_hash"])


def _came_to_nothing(folder: RunFolder, now: Mapping[str, Any]) -> bool:
    """Whether a folder holds a run of another configuration without one answer, which a corrected run replaces."""
    return _is_another(folder.manifest(), now) and all(one.error is not None for one in folder.answers().values())


def _refuse_another(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if not _is_another(before, now):
        return
    differs = [name for name, value in now["config"].items() if before["config"].get(name) != value]
    raise OutputError(
        f"{out} holds a run of another configuration, which differs in {', '.join(differs) or 'its version'}: choose "
        "another folder, or give the options of that run"
    )


def _refuse_other_pictures(out: Path, samples: Sequence[Sample], answers: Mapping[str, Answer]) -> None:
    """Refuse to go on with answers about other pictures, be they of another folder or replaced in place.

    Lines that failed, or that do not say which picture they are about, are answered again anyway. A picture that is
    gone does not change what was answered about it.
    """
    for one in samples:
        before = answers.get(one.id)
        if before is None or before.error is not None or before.image_hash is None:
            continue
        if image_hash(one.picture) not in (before.image_hash, None):
            raise OutputError(
                f"{out} holds answers about other pictures: {before.image} of the sample {one.id} is not the one that "
                "was asked about: choose another folder, or put the picture back"
            )


def _copy_pictures(source: Path, out: Path) -> None:
    for file in sorted((source / IMAGES).glob("*.png")):
        if not (out / IMAGES / file.name).exists():
            write_bytes(out / IMAGES / file.name, file.read_bytes())


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
