"""Yes-no answers split by split, also those of two runs, as the JSON and the tables that commands and tasks give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.paired import difference_table, differences_json, paired
from evals.report import aligned, percent
from evals.statistics import Interval, sign_test
from evals.tasks.base import Scored
from evals.yesno.confusion import HIGHER_IS_BETTER, Answered, YesNoScore, score_answers, yes_no_json, yes_no_ratios
from evals.yesno.parsers import Parser
from pipelines.provenance import versions

VERSION = 1


def score_splits(
    splits: Mapping[str, Sequence[Answered]],
    parser: Parser,
    seed: int,
    *,
    task: str = "pope",
    title: str = "POPE",
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> Scored:
    """The figures of each split and their mean over splits, which is what LLaVA calls POPE.

    Args:
        splits: answers by split, none of them empty.
        parser: how they were read.
        seed: of the bootstrap.
        task: what the JSON calls the task.
        title: what the table calls it.
        extra: more to say of splits in the JSON, by split.
    """
    found = {
        name: score_answers(answers, unread_is_no=parser.unread_is_no, seed=seed) for name, answers in splits.items()
    }
    data = {
        "task": task,
        "version": VERSION,
        "n": sum(one.n for one in found.values()),
        "mean": means(found),
        "splits": {name: {**yes_no_json(one), **(extra or {}).get(name, {})} for name, one in found.items()},
        "parser": parser.name,
        "higher_is_better": HIGHER_IS_BETTER,
        "seed": seed,
        "versions": versions(),
    }
    lines = [["split", "n", "accuracy", "precision", "recall", "F1", "yes-ratio", "unparsable"]]
    for split, one in found.items():
        cells = [_cell(getattr(one, name)) for name in HIGHER_IS_BETTER]
        lines.append([split, str(one.n), *cells, str(one.unparsable)])
    if len(found) > 1:
        lines.append(["mean of splits", "", *(f"{value:.1f}" for value in means(found).values()), ""])
    return Scored(data, f"{title}, answers read by the rule {parser.name!r}\n\n{aligned(lines)}")


def compare_splits(
    a: Mapping[str, Sequence[Answered]], b: Mapping[str, Sequence[Answered]], parser: Parser, seed: int
) -> Scored:
    """The differences b - a of each split, paired by image; right answers also by McNemar's exact test.

    Args:
        a: the first run's answers by split.
        b: the second's, to the same questions in the same order.
        parser: how they were read.
        seed: of bootstrap and permutation.
    """
    splits, parts = {}, []
    for name, one in a.items():
        other = b[name]
        figures = paired(
            *(yes_no_ratios(run, unread_is_no=parser.unread_is_no) for run in (one, other)),
            seed=seed,
        )
        alone = [(x.says_yes is x.truth) - (y.says_yes is y.truth) for x, y in zip(one, other, strict=True)]
        only_a, only_b = alone.count(1), alone.count(-1)
        p = sign_test(only_a, only_b)
        splits[name] = {
            "n": len(one),
            "differences": differences_json(figures, _shown),
            "right_exact": {"a_alone": only_a, "b_alone": only_b, "p": p},
        }
        parts += [
            f"{name}: {len(one)} questions, answers read by the rule {parser.name!r}",
            difference_table(figures, _shown),
            f"right in A only {only_a}, in B only {only_b} answers: exact p {p:.3g}",
        ]
    data = {
        "task": "compare",
        "version": VERSION,
        "n": sum(len(one) for one in a.values()),
        "splits": splits,
        "parser": parser.name,
        "higher_is_better": HIGHER_IS_BETTER,
        "seed": seed,
        "versions": versions(),
    }
    return Scored(data, "\n\n".join(parts))


def means(found: Mapping[str, YesNoScore]) -> dict[str, float]:
    """The mean over splits of each figure, in percent."""
    return {
        name: percent(sum(getattr(one, name).value for one in found.values()) / len(found)) for name in HIGHER_IS_BETTER
    }


def answer_json(answer: Answered) -> dict[str, Any]:
    """What was made of one answer, for a run's details."""
    return {
        "truth": answer.truth,
        "says": answer.says_yes,
        "right": answer.says_yes is answer.truth,
        "parsed": answer.parsed,
    }


def _shown(name: str, value: float) -> float:
    return percent(value)


def _cell(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
