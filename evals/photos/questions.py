"""POPE's questions and captions of test photos: the suite's own tasks with a photo set as their data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.answering import ImageStore, answer_batch
from evals.chair.report import PLAIN
from evals.photos.plan import PhotoPlan
from evals.task import Answer, Sample
from evals.tasks.chair import ChairTask
from evals.tasks.pope import PopeTask
from grounding.errors import EvalDataError
from grounding.models.base import VLM
from grounding.photos import SPLITS, PhotoSet, coco_number
from grounding.runs.attempts import cut
from grounding.steering.decoding import Decoding

SHOWN = 20  # captions printed in full
_ANSWER, _CAPTION = 4, 40  # longest answer in tokens
_BATCH = 32


def pope_scores(vlm: VLM, photos: PhotoSet, plan: PhotoPlan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Score POPE's questions about test photos, read by POPE's own rule.

    Returns:
        Per split `n`, `failed` and `unparsable`; accuracy, precision, recall, F1 and yes-ratio as [value, low, high].

    Raises:
        EvalDataError: a split cannot be read, or none of its questions was answered.
    """
    tested = {photo.id for photo in photos.test}
    found: dict[str, Any] = {}
    for split in SPLITS:
        task = PopeTask(questions=(plan.data / f"pope_{split}.json",), data=str(plan.data))
        samples = [one for one in task.samples() if coco_number(one.image) in tested][: plan.limit]
        answers, failed = _answers(vlm, samples, _ANSWER, advance)
        (row,) = task.score(answers, plan.data, plan.seed).data["splits"].values()
        names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
        found[split] = {
            "n": row["n"],
            "failed": failed,
            "unparsable": row["unparsable"],
            **_fractions(row, names),
        }
    return found


def caption_scores(vlm: VLM, photos: PhotoSet, plan: PhotoPlan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Score captions of test photos by CHAIR.

    Returns:
        `n` and `failed`; CHAIR_S, CHAIR_I, recall, precision, F1 and length as [value, low, high]; and the first
        `SHOWN` captions.

    Raises:
        EvalDataError: the synonyms cannot be read or do not fit, or no photo was described.
    """
    tested = {photo.id for photo in photos.test}
    task = _chair(plan, vlm.default_question)
    samples = sorted((one for one in task.samples() if int(one.id) in tested), key=lambda one: int(one.id))[
        : plan.limit
    ]
    answers, failed = _answers(vlm, samples, _CAPTION, advance)
    row = task.score(answers, plan.data, plan.seed).data
    return {
        "n": row["n"],
        "failed": failed,
        **_fractions(row, ("chair_s", "chair_i", "recall", "precision", "f1", "length")),
        "captions": {one.id: one.text for one in answers[:SHOWN]},
    }


def check_questions(plan: PhotoPlan) -> None:
    """Read what the questions and captions of a plan need, before any of them is asked.

    Raises:
        EvalDataError: a file cannot be read or does not fit.
    """
    if "pope" in plan.parts:
        for split in SPLITS:
            PopeTask(questions=(plan.data / f"pope_{split}.json",), data=str(plan.data)).samples()
    if "captions" in plan.parts:
        _chair(plan, None).resources()


def _chair(plan: PhotoPlan, words: str | None) -> ChairTask:
    return ChairTask(
        data=str(plan.data),
        ground_truth=str(plan.data / "images.json"),
        synonyms=str(plan.synonyms),
        words=words,
        lengths=(),
    )


def _answers(
    vlm: VLM, samples: Sequence[Sample], max_new_tokens: int, advance: Callable[[int], None]
) -> tuple[list[Answer], int]:
    """Greedy answers of the unsteered model, in order, without those that failed; and the number of these."""
    store = ImageStore.of(samples, Path()) if samples else None
    answers: list[Answer] = []
    for batch in cut(samples, _BATCH):
        assert store is not None
        answers += answer_batch(vlm, batch, store, None, Decoding(max_new_tokens=max_new_tokens))
        advance(len(batch))
    good = [one for one in answers if one.error is None]
    if not good:
        first = f"; the first failed: {answers[0].error}" if answers else ""
        raise EvalDataError(f"none of the {len(answers)} questions about test photos was answered{first}")
    return good, len(answers) - len(good)


def _fractions(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[float]]:
    """[value, low, high] by name; shares, which the tasks give in percent, as fractions."""
    triples = {name: (row[name], *row["intervals"][name]) for name in names}
    return {
        name: [round(value if name in PLAIN else value / 100, 4) for value in triple]
        for name, triple in triples.items()
    }
