"""Compute differences of two runs on their common samples, from the counts in their details.

A metric is compared only if the counts reproduce the value in the scores, for both runs; otherwise the difference would
not belong to the values in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evals.chair.compare import PairedDifference
from evals.chair.report import shown
from evals.chair.score import CaptionScore, ratios
from evals.chair.words import by_rules
from evals.folder import Folder, SampleLine
from evals.html.sections import Section, sections
from evals.statistics import RatioOfSums, bootstrap_difference, swap_test
from evals.textquality import text_quality
from evals.yesno.confusion import Answered, yes_no_ratios

_ROUNDING = 0.06  # scores are compared with one decimal, as printed


def paired(first: Folder, other: Folder, *, seed: int = 0) -> dict[str, dict[str, PairedDifference]]:
    """Compute the differences `other - first` by section title and metric; shares as fractions.

    Args:
        first: the reference run.
        other: a run of the same task.
        seed: of bootstrap and permutation test.
    """
    known = {one.id: one for one in other.samples if not one.error}
    mine = {one.id: one for one in first.samples if not one.error}
    ids = [id for id in mine if id in known]
    theirs = {section.title: section for section in sections(other.scores)}
    found = {}
    for section in sections(first.scores):
        if section.title not in theirs or not ids:
            continue
        whole = [_section_ratios(list(run.values()), section.title) for run in (mine, known)]
        names = [
            name
            for name in section.figures
            if _agrees(name, whole[0], section) and _agrees(name, whole[1], theirs[section.title])
        ]
        one = _section_ratios([mine[id] for id in ids], section.title)
        two = _section_ratios([known[id] for id in ids], section.title)
        found[section.title] = {
            name: _difference(name, one[name], two[name], seed) for name in names if name in one and name in two
        }
    return {title: figures for title, figures in found.items() if figures}


def caption_scores(samples: Sequence[SampleLine]) -> list[CaptionScore]:
    """Read CHAIR's counts from lines with mentions, hallucinated, missed and length; skip other lines."""
    scores = []
    for number, one in enumerate(samples):
        length = one.fields.get("length")
        if one.truth is not None and isinstance(length, int):
            quality = text_quality(one.text, by_rules(one.text))
            # Only the number of words enters the metrics.
            words = ("",) * length
            scores.append(
                CaptionScore(number, words, one.names("mentions"), one.names("hallucinated"), one.truth, quality)
            )
    return scores


def yes_no_answers(samples: Sequence[SampleLine]) -> list[Answered]:
    """Read yes-no answers from lines with truth and says; skip other lines."""
    images: dict[str, int] = {}
    found = []
    for one in samples:
        truth, says = one.fields.get("truth"), one.fields.get("says")
        if isinstance(truth, bool) and "says" in one.fields and (says is None or isinstance(says, bool)):
            image = images.setdefault(str(one.image or one.id), len(images))
            found.append(Answered(image, truth, says, says is not None))
    return found


def _section_ratios(samples: Sequence[SampleLine], title: str) -> Mapping[str, RatioOfSums]:
    """Compute the metrics of a section's samples as ratios; a split's samples name it in `split`."""
    chosen = [one for one in samples if not title or one.fields.get("split") == title]
    captions, answers = caption_scores(chosen), yes_no_answers(chosen)
    if captions and len(captions) == len(chosen):
        return ratios(captions)
    return yes_no_ratios(answers) if answers and len(answers) == len(chosen) else {}


def _agrees(name: str, found: Mapping[str, RatioOfSums], section: Section) -> bool:
    return name in found and abs(shown(name, found[name].value) - section.figures[name].value) < _ROUNDING


def _difference(name: str, one: RatioOfSums, two: RatioOfSums, seed: int) -> PairedDifference:
    interval = bootstrap_difference(two, one, seed=seed)
    return PairedDifference(one.value, two.value, interval, swap_test(two, one, seed=seed))
