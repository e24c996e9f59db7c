"""All measurements on test photos, as plain data and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.chair.lexicon import read_lexicon
from evals.chair.score import Caption, chair, score_caption
from evals.chair.words import normaliser
from evals.photos.annotations import expressions, nouns, pope_rows
from evals.photos.pointing import Pointed, noun_samples, point_at, shuffled_hits
from evals.report import change, change_json, score, score_json
from evals.scenes import CENTRE, FULL, TRUTH, answer_samples
from evals.statistics import Interval, bootstrap, bootstrap_difference, mean_of
from evals.yesno.confusion import Answered, answered, score_answers
from evals.yesno.parsers import PARSERS
from grounding.images import open_image
from grounding.models.base import VLM
from grounding.starter.measure import ask
from grounding.starter.photo.data import SPLITS, PhotoSet
from grounding.starter.photo.words import DESCRIBE
from pipelines.referring import ReferringSegmentation

SHOWN = 20  # captions printed in full
_ANSWER, _CAPTION = 4, 40  # most new tokens
_AT_ONCE = 32
_PARSER = PARSERS["official"]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        data: folder of photos.
        synonyms: CHAIR's list; only captions need it.
        parts: some of nouns, expressions, pope, captions.
        ablate: nouns also with each part of the method switched off.
        limit: most questions of each part; all where None.
        seed: of the controls.
    """

    data: Path
    synonyms: Path | None
    parts: tuple[str, ...]
    ablate: bool = False
    limit: int | None = None
    seed: int = 0


def measure(
    pipe: ReferringSegmentation, photos: PhotoSet, plan: Plan, advance: Callable[[int], None] = lambda count: None
) -> dict[str, Any]:
    """The scores of each part, JSON-like; see the functions here for what they hold."""
    vlm = pipe.source
    assert isinstance(vlm, VLM)
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "nouns": lambda: noun_scores(pipe, photos, plan, advance),
        "expressions": lambda: expression_scores(pipe, photos, plan, advance),
        "pope": lambda: pope_scores(vlm, photos, plan, advance),
        "captions": lambda: caption_scores(vlm, photos, plan, advance),
    }
    return {part: ways[part]() for part in plan.parts}


def noun_scores(
    pipe: ReferringSegmentation, photos: PhotoSet, plan: Plan, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Pointing and masks of nouns, the controls, and how the full method differs from each of them."""
    found = nouns(plan.data, photos, plan.seed)[: plan.limit]
    answers = answer_samples(pipe, noun_samples(found), ablate=plan.ablate, advance=advance)
    outcomes, where = answers.outcomes, answers.scenes
    full = outcomes[FULL]
    shuffled = shuffled_hits(pipe, noun_samples(found), plan.seed, advance)
    hits = mean_of([one.hit for one in full if one is not None], where)
    control = mean_of(shuffled, where)
    return {
        "photos": len(set(where)),
        "variants": {name: score_json(score(found, where)) for name, found in outcomes.items()},
        "full_minus": {
            name: change_json(change(full, outcomes[name], where)) for name in outcomes if name not in (FULL, TRUTH)
        },
        "shuffled_heads": {
            "pointing_accuracy": bounds(bootstrap(control)),
            "full_minus": bounds(bootstrap_difference(hits, control)),
        },
        "by_class": by_class([noun.name for noun in found], [bool(one and one.hit) for one in full]),
    }


def by_class(names: Sequence[str], hits: Sequence[bool]) -> dict[str, list[int]]:
    """Per class [hits, asked], most asked first."""
    table: dict[str, list[int]] = {}
    for name, hit in zip(names, hits, strict=True):
        row = table.setdefault(name, [0, 0])
        row[0] += hit
        row[1] += 1
    return dict(sorted(table.items(), key=lambda item: (-item[1][1], item[0])))


def expression_scores(
    pipe: ReferringSegmentation, photos: PhotoSet, plan: Plan, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Point in box; an expression with a word the model does not know is a miss, and counted.

    `answered` holds the same scores over those expressions alone that could be asked, with their number, since a small
    vocabulary says nothing of where known words point.
    """
    pointed = []
    for asked in expressions(plan.data, photos)[: plan.limit]:
        pointed.append(point_at(pipe, asked))
        advance(1)
    return {
        **point_in_box(pointed),
        "refused": {
            "full": sum(one.full is None for one in pointed),
            "head noun alone": sum(one.head is None for one in pointed),
        },
        "answered": point_in_box([one for one in pointed if one.full is not None]),
    }


def point_in_box(pointed: Sequence[Pointed]) -> dict[str, Any]:
    """Shares of points in boxes with their number, and how the whole expression differs from its controls.

    Args:
        pointed: the expressions' hits; what was refused is a miss. With none of them there is a number and no share.
    """
    if not pointed:
        return {"n": 0, "point_in_box": {}, "full_minus": {}}
    where = [one.photo for one in pointed]
    columns = {
        "full": mean_of([bool(one.full) for one in pointed], where),
        "head noun alone": mean_of([bool(one.head) for one in pointed], where),
        CENTRE: mean_of([one.centre for one in pointed], where),
    }
    return {
        "n": len(pointed),
        "point_in_box": {name: bounds(bootstrap(column)) for name, column in columns.items()},
        "full_minus": {
            name: bounds(bootstrap_difference(columns["full"], column))
            for name, column in columns.items()
            if name != "full"
        },
    }


def pope_scores(vlm: VLM, photos: PhotoSet, plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the share of yes, by POPE's own reading of answers, per split."""
    rows = pope_rows(plan.data, photos)
    found: dict[str, Any] = {}
    for split in SPLITS:
        mine = [row for row in rows if row.split == split][: plan.limit]
        answers: list[Answered] = []
        for start in range(0, len(mine), _AT_ONCE):
            chunk = mine[start : start + _AT_ONCE]
            pairs = [(open_image(row.photo.file), row.question) for row in chunk]
            said = ask(vlm.model, vlm.processor, pairs, _ANSWER)
            answers += [answered(row.photo.id, row.yes, text, _PARSER) for row, text in zip(chunk, said, strict=True)]
            advance(len(chunk))
        score = score_answers(answers, seed=plan.seed)
        found[split] = {
            "n": score.n,
            "unparsable": score.unparsable,
            **{name: bounds(getattr(score, name)) for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")},
        }
    return found


def caption_scores(vlm: VLM, photos: PhotoSet, plan: Plan, advance: Callable[[int], None]) -> dict[str, Any]:
    """CHAIR over every test photo, and the first captions."""
    assert plan.synonyms is not None
    lexicon, normalise = read_lexicon(plan.synonyms), normaliser("rules")
    mine = photos.test[: plan.limit]
    texts: list[str] = []
    for start in range(0, len(mine), _AT_ONCE):
        chunk = mine[start : start + _AT_ONCE]
        texts += ask(vlm.model, vlm.processor, [(open_image(photo.file), DESCRIBE) for photo in chunk], _CAPTION)
        advance(len(chunk))
    truth = {photo.id: frozenset(photo.objects) for photo in mine}
    said = [Caption(photo.id, text) for photo, text in zip(mine, texts, strict=True)]
    score = chair([score_caption(one, truth, lexicon, normalise) for one in said], seed=plan.seed)
    return {
        "n": score.n,
        **{
            name: bounds(getattr(score, name)) for name in ("chair_s", "chair_i", "recall", "precision", "f1", "length")
        },
        "captions": {str(one.image_id): one.text for one in said[:SHOWN]},
    }


def bounds(interval: Interval) -> list[float]:
    """[value, low, high]."""
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def report(data: dict[str, Any]) -> str:
    """The scores as Markdown."""
    lines = [
        f"Model {data['config']['model']}, {data['test_photos']} test photos, of which nearly all show a person. "
        "Fractions with 95 % bootstrap intervals, resampled by photo.",
    ]
    if "nouns" in data:
        part = data["nouns"]
        lines += ["", "| nouns | n | point in mask | full minus this | mIoU |", "|---|---|---|---|---|"]
        for name, row in part["variants"].items():
            ahead = part["full_minus"].get(name)
            lines.append(
                f"| {name} | {row['n']} | {_of(row, 'pointing_accuracy')} | "
                f"{_of(ahead, 'pointing_accuracy') if ahead else ''} | {_of(row, 'miou')} |"
            )
        heads = part["shuffled_heads"]
        lines.append(
            f"| heads of other photos | | {_shown(heads['pointing_accuracy'])} | {_shown(heads['full_minus'])} | |"
        )
        most = ", ".join(f"{name} {hit}/{asked}" for name, (hit, asked) in list(part["by_class"].items())[:25])
        lines += ["", f"Hits by class: {most}."]
    if "expressions" in data:
        part = data["expressions"]
        for title, rows in (("expressions", part), ("expressions that could be asked", part["answered"])):
            lines += ["", f"| {rows['n']} {title} | point in box | full minus this | refused |", "|---|---|---|---|"]
            for name, row in rows["point_in_box"].items():
                ahead, refused = rows["full_minus"].get(name), part["refused"].get(name, 0) if rows is part else ""
                lines.append(f"| {name} | {_shown(row)} | {_shown(ahead) if ahead else ''} | {refused} |")
    if "pope" in data:
        lines += ["", "| POPE | n | accuracy | F1 | share of yes |", "|---|---|---|---|---|"]
        lines += [
            f"| {split} | {row['n']} | {_shown(row['accuracy'])} | {_shown(row['f1'])} | {_shown(row['yes_ratio'])} |"
            for split, row in data["pope"].items()
        ]
    if "captions" in data:
        part = data["captions"]
        lines += ["", f"| {part['n']} captions | |", "|---|---|"]
        lines += [f"| {name} | {_shown(part[name])} |" for name in ("chair_s", "chair_i", "recall", "length")]
        lines += ["", *(f"- {photo}: {text}" for photo, text in part["captions"].items())]
    return "\n".join(lines) + "\n"


def _of(row: dict[str, Any], what: str) -> str:
    return _shown([row[what], *row["intervals"][what]])


def _shown(triple: Sequence[float]) -> str:
    value, low, high = triple
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
