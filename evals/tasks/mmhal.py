"""MMHal-Bench as a task: open questions, rated by a judge of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from evals.data import picture_in
from evals.inputs import field, read_rows
from evals.judge import CommandJudge, ask_all
from evals.mmhal import TYPES, MMHalItem, MMHalScore, prompt, rating, read_template, score_items
from evals.report import DIGITS, aligned, percent
from evals.task import Answer, Sample, Scored
from grounding.errors import UsageError
from grounding.files import user_path, write_json
from grounding.runs.provenance import short_hash, versions

VERSION = 1
LIMIT = 512  # our choice; the authors' script rates answers and generates none
REPLIES, RESPONSES = "replies.jsonl", "responses.json"


@dataclass(frozen=True, kw_only=True)
class MMHalTaskOptions:
    """Options of `MMHalTask`; the command that rates existing answers shares them.

    Attributes:
        data: with a model, MMHal-Bench's response_template.json.
        images: with a model, the folder of its images, named as at the end of their `image_src`; the file's own
            folder if left out.
        judge: a program, with its arguments, that reads a prompt from standard input and writes a reply ending with
            "Rating: N"; if empty, only replies that are on the disk already are scored.
        template: the judge's prompt, a text with {contents}, {question}, {reference} and {answer}; the project's own
            if left out, which is not the authors'.
        timeout: seconds that the judge may take per answer.
    """

    data: str = ""
    images: str = ""
    judge: str = ""
    template: Path | None = None
    timeout: float = 120.0

    def asked(self) -> CommandJudge | None:
        """Return the judge; None if none is given.

        Raises:
            UsageError: the timeout is not above 0.
        """
        if self.timeout <= 0:
            raise UsageError(f"--timeout {self.timeout:g} was given, expected seconds above 0")
        return CommandJudge(self.judge, self.timeout) if self.judge else None


@dataclass(frozen=True, kw_only=True)
class MMHalTask(MMHalTaskOptions):
    """Answer MMHal-Bench's questions; without a judge the answers are written to responses.json for later rating."""

    name: ClassVar[str] = "mmhal"
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = LIMIT

    @property
    def prompt(self) -> str:
        """Empty: the questions are asked as they are."""
        return ""

    def samples(self) -> Sequence[Sample]:
        """Return one sample per question; see `Task.samples`. Check the judge's options before the model runs."""
        if not self.data:
            raise UsageError("--data is missing: a model needs the questions, response_template.json")
        self.asked()
        read_template(self.template)
        folder = self.images or str(user_path(self.data).parent)
        samples = []
        for number, row in enumerate(read_rows(self.data, "the questions")):
            where = f"row {number + 1} of {self.data}"
            source, question, reference = (
                str(field(row, (name,), str, where)) for name in ("image_src", "question", "gt_answer")
            )
            contents = field(row, ("image_content",), list, where)
            fields = {
                "question_type": str(row.get("question_type", TYPES[number % len(TYPES)])),
                "image_content": [str(part) for part in contents],
                "gt_answer": reference,
                "image_src": source,
            }
            image = PurePosixPath(source).name
            samples.append(Sample(str(number), image, picture_in(folder, image), question, fields))
        return samples

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score the judge's ratings; without a judge and without kept replies, only count the answers."""
        write_json(folder / RESPONSES, [_response(one) for one in answers])
        judge, kept = self.asked(), folder / REPLIES
        if judge is None and not kept.exists():
            data = {"task": self.name, "version": VERSION, "n": len(answers), "score": None, "judge": None}
            return Scored(
                data, f"{len(answers)} answers wait in {folder / RESPONSES} for a judge: give --judge PROGRAM"
            )
        template = read_template(self.template)
        items = [_item(one) for one in answers]
        replies = ask_all([prompt(item, template) for item in items], judge, kept)
        texts = [one.text for one in replies]
        scored = score_replies(items, texts, self.judge, template, seed)
        details = [{"id": one.id, "rating": rating(text)} for one, text in zip(answers, texts, strict=True)]
        return Scored(scored.data, scored.text, details)


def score_replies(items: Sequence[MMHalItem], replies: Sequence[str], judge: str, template: str, seed: int) -> Scored:
    """Score a judge's replies, as JSON and table; shared by task and command."""
    found: MMHalScore = score_items(items, replies, seed=seed)
    score, rate = found.score, found.hallucination_rate
    data = {
        "task": "mmhal",
        "version": VERSION,
        "n": found.n,
        "unrated": found.unrated,
        "score": round(score.value, DIGITS),
        "hallucination_rate": percent(rate.value),
        "intervals": {
            "score": [round(score.low, DIGITS), round(score.high, DIGITS)],
            "hallucination_rate": [percent(rate.low), percent(rate.high)],
        },
        "types": {kind: round(value, DIGITS) for kind, value in found.by_type.items()},
        "higher_is_better": {"score": True, "hallucination_rate": False},
        "judge": judge or None,
        "template_hash": short_hash(template, 12),
        "seed": seed,
        "versions": versions(),
    }
    lines = [
        ["answers", str(found.n)],
        ["without one rating", str(found.unrated)],
        ["mean rating, 0 to 6", f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"],
        ["rated below 3, %", f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"],
        *([kind, f"{value:.2f}"] for kind, value in found.by_type.items()),
    ]
    return Scored(data, aligned(lines))


def _item(answer: Answer) -> MMHalItem:
    said = answer.fields
    return MMHalItem(
        said["question_type"], tuple(said["image_content"]), answer.question, said["gt_answer"], answer.text
    )


def _response(answer: Answer) -> dict[str, Any]:
    """A row in the format of MMHal-Bench's template."""
    return {**answer.fields, "question": answer.question, "model_answer": answer.text}
