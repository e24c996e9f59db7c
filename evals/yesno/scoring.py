"""Score yes-no answers, and differences of two runs, split by split, as JSON and tables of commands and tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.paired import DiscordantPairs, difference_table, differences_json, in_percent, paired
from evals.report import aligned, percent
from evals.statistics import Interval
from evals.task import Scored
from evals.yesno.confusion import HIGHER_IS_BETTER, Answered, YesNoScore, score_answers, yes_no_json, yes_no_ratios
from evals.yesno.parsers import Parser
from grounding.runs.provenance import versions

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
    """Score each split, and the mean over splits, which LLaVA calls POPE.

    Args:
        splits: answers by split, none of them empty.
        parser: the rule that read them.
        seed: of the bootstrap.
        task: the task's name in the JSON.
        title: of the table.
        extra: further JSON fields by split.
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
    """Score the differences b - a of each split, paired by image; right answers also by McNemar's exact test.

    Args:
        a: the first run's answers by split.
        b: the second's, to the same questions in the same order.
        parser: the rule that read them.
        seed: of bootstrap and permutation test.
    """
    splits, parts = {}, []
    for name, one in a.items():
        other = b[name]
        figures = paired(
            *(yes_no_ratios(run, unread_is_no=parser.unread_is_no) for run in (one, other)),
            seed=seed,
        )
        alone = DiscordantPairs.of(*([x.says_yes is x.truth for x in run] for run in (one, other)))
        splits[name] = {
            "n": len(one),
            "differences": differences_json(figures, in_percent),
            "right_exact": alone.to_json(),
        }
        parts += [
            f"{name}: {len(one)} questions, answers read by the rule {parser.name!r}",
            difference_table(figures, in_percent),
            f"right in A only {alone.a}, in B only {alone.b} answers: exact p {alone.p:.3g}",
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
    """Average each metric over splits, in percent."""
    return {
        name: percent(sum(getattr(one, name).value for one in found.values()) / len(found)) for name in HIGHER_IS_BETTER
    }


def answer_json(answer: Answered) -> dict[str, Any]:
    """Convert one answer to a line of a run's details."""
    return {
        "truth": answer.truth,
        "says": answer.says_yes,
        "right": answer.says_yes is answer.truth,
        "parsed": answer.parsed,
    }


def _cell(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
