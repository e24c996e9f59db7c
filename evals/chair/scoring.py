"""CHAIR of captions, and of two runs' captions, as the JSON and tables of commands and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals.chair.compare import Matched, compare
from evals.chair.counts import CaptionCounts
from evals.chair.curve import CurveSums
from evals.chair.lexicon import Lexicon
from evals.chair.report import (
    HIGHER_IS_BETTER,
    PLAIN,
    chair_json,
    chair_table,
    curve_table,
    point_json,
    sample_json,
    shown,
)
from evals.chair.score import CaptionScore, chair
from evals.inputs import no_word
from evals.paired import difference_table, differences_json
from evals.task import Scored
from grounding.errors import UsageError
from grounding.runs.provenance import versions

TASK = "chair"
VERSION = 2  # 2: possessives, train track, and the published pipeline by default


def check_lengths(lengths: Sequence[int]) -> None:
    """Refuse cuts of the truncation curve below one word.

    Raises:
        UsageError: a length is below 1.
    """
    if min(lengths, default=1) < 1:
        raise UsageError(f"--lengths {' '.join(map(str, lengths))} was given, expected lengths of at least 1")


def score_captions(
    scores: Iterable[CaptionScore],
    lexicon: Lexicon,
    name: str,
    lengths: Sequence[int],
    variant: Mapping[str, Any],
    hashes: Mapping[str, str],
    seed: int,
    *,
    details: bool = True,
) -> Scored:
    """Compute the metrics and the truncation curve of captions.

    Args:
        scores: of the captions, each of which is used once and then let go.
        lexicon: the tables they were scored with.
        name: of the captions, for titles.
        lengths: cuts of the curve.
        variant: see `ChairOptions.variant`.
        hashes: of the source files, by role.
        seed: of the bootstrap.
        details: whether to list the counts of each caption.

    Raises:
        EvalDataError: no caption has a word, so that their score would be the best that there is.
    """
    counts, sums = CaptionCounts(), CurveSums(lexicon, lengths)
    samples = []
    for one in scores:
        counts.add(one)
        sums.add(one)
        if details:
            samples.append(sample_json(one))
    if counts.empty == len(counts):
        raise no_word(len(counts), "captions", name)
    found = chair(counts, seed=seed)
    curve = sums.points()
    data = {
        "task": TASK,
        "version": VERSION,
        **chair_json(found),
        "truncation_curve": [point_json(point) for point in curve],
        "variant": dict(variant),
        "hashes": dict(hashes),
        "seed": seed,
        "versions": versions(),
    }
    title = f"CHAIR of {name}, text by {variant['pipeline']}, double words {variant['double_words']}"
    parts = [title, chair_table({name: found})]
    if found.empty:
        parts.append(f"{found.empty} of {found.n} captions are empty; they name nothing, which lowers CHAIR and recall")
    if curve:
        parts += ["captions cut after k words and punctuation marks", curve_table(curve)]
    return Scored(data, "\n\n".join(parts), samples)


def compare_captions(
    a: Sequence[CaptionScore],
    b: Sequence[CaptionScore],
    lexicon: Lexicon,
    names: tuple[str, str],
    variant: Mapping[str, Any],
    hashes: Mapping[str, str],
    seed: int,
) -> Scored:
    """Compute the differences b - a as they are, at equal recall, and at equal length; see `score_captions`.

    Raises:
        EvalDataError: they share no image.
    """
    found = compare(a, b, lexicon, seed=seed)
    matched = found.recall_matched
    data = {
        "task": "compare",
        "version": VERSION,
        "n": found.n,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "differences": differences_json(found.figures, shown),
        "chair_s_exact": {"a_alone": found.a_alone, "b_alone": found.b_alone, "p": found.chair_s_exact_p},
        "recall_matched": _matched_json(matched),
        "length_matched": _matched_json(found.length_matched),
        "higher_is_better": HIGHER_IS_BETTER,
        "variant": dict(variant),
        "hashes": dict(hashes),
        "seed": seed,
        "versions": versions(),
    }
    how = f"{matched.cut_run.upper()} cut after {matched.k} words" if matched.cut_run else "equal as they are"
    parts = [
        f"A {names[0]}, B {names[1]}: {found.n} images, text by {variant['pipeline']}",
        difference_table(found.figures, shown, PLAIN),
        f"hallucinating in A only {found.a_alone}, in B only {found.b_alone} captions: exact p "
        f"{found.chair_s_exact_p:.3g}",
        f"at equal recall ({how})",
        difference_table(matched.figures, shown, PLAIN),
        "at equal length (both cut to the shorter, image by image)",
        difference_table(found.length_matched.figures, shown, PLAIN),
    ]
    return Scored(data, "\n\n".join(parts))


def _matched_json(found: Matched) -> dict[str, Any]:
    """Convert the differences after a cut, and the cut."""
    return {"cut": found.cut_run, "k": found.k, "differences": differences_json(found.figures, shown)}
