"""Score responses to AMBER's queries, as JSON and tables of command and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from evals.amber.annotations import Annotations, read_words
from evals.amber.discriminative import DiscriminativeScore, Verdict, amber_score, read_verdict, score_groups
from evals.amber.generative import (
    HIGHER_IS_BETTER,
    DescriptionCounts,
    GenerativeScore,
    ratios,
    score_description,
    score_descriptions,
)
from evals.amber.nouns import description_nouns, similarity
from evals.chair.words import Pipeline, settle
from evals.paired import compare_right, difference_table, differences_json, in_percent, paired
from evals.report import aligned, percent
from evals.task import Scored
from evals.yesno.parsers import PARSERS
from grounding.runs.provenance import versions

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class AmberOptions:
    """AMBER's data and the rules that read responses.

    Attributes:
        data: AMBER's data folder, with annotations.json, relation.json and safe_words.txt.
        pipeline: `nltk` looks up the nouns that NLTK tags, `rules` every word that its neighbours let be a noun; `auto`
            is `nltk` where package and data are there (`grounding eval nltk-data` brings the data), else `rules`.
        vectors: `en_core_web_lg` counts similar words as equal, `none` does not.
        parser: `exact` accepts only the strings "Yes" and "No", as in the authors' script; or one of POPE's parsers.
    """

    data: Path
    pipeline: Literal["auto", "rules", "nltk"] = "auto"
    vectors: Literal["none", "en_core_web_lg"] = "none"
    parser: Literal["exact", "official", "pai", "lmms-eval", "vlmevalkit"] = "exact"

    @cached_property
    def settled(self) -> Pipeline:
        """The pipeline that finds nouns, `auto` settled."""
        return settle(self.pipeline)


@dataclass(frozen=True)
class AmberCounts:
    """The counts of responses, by id."""

    descriptions: Mapping[int, DescriptionCounts]
    verdicts: Mapping[int, Verdict]


def count(responses: Mapping[int, str], annotations: Annotations, options: AmberOptions) -> AmberCounts:
    """Count every response.

    Raises:
        EvalDataError: the word lists are missing or belong to other annotations.
        MissingExtraError: the package of an option is not installed.
    """
    described = [one for one in responses if one in annotations.scenes]
    descriptions: dict[int, DescriptionCounts] = {}
    if described:
        words = read_words(options.data / "relation.json", options.data / "safe_words.txt")
        nouns, similar = description_nouns(options.settled, words.known), similarity(options.vectors)
        for one in described:
            scene = annotations.scenes[one]
            descriptions[one] = score_description(one, nouns(responses[one]), scene, words, similar)
    verdicts = {}
    for one, text in responses.items():
        if one in annotations.statements:
            statement = annotations.statements[one]
            exact = options.parser == "exact"
            says = PARSERS[options.parser].read(text).says_yes if not exact else None
            verdicts[one] = read_verdict(statement, text) if exact else Verdict(statement, says)
    return AmberCounts(descriptions, verdicts)


def score_counts(counts: AmberCounts, options: AmberOptions, seed: int) -> Scored:
    """Score responses by the authors' rules."""
    generative = score_descriptions(list(counts.descriptions.values()), seed=seed) if counts.descriptions else None
    discriminative = score_groups(list(counts.verdicts.values())) if counts.verdicts else {}
    figures = {name: getattr(generative, name) for name in HIGHER_IS_BETTER} if generative else {}
    both = generative is not None and "all" in discriminative
    data: dict[str, Any] = {
        "task": "amber",
        "version": VERSION,
        "generative": {
            "n": generative.n,
            **{name: percent(one.value) for name, one in figures.items()},
            "intervals": {name: [percent(one.low), percent(one.high)] for name, one in figures.items()},
            "higher_is_better": HIGHER_IS_BETTER,
        }
        if generative
        else None,
        "discriminative": {name: asdict(one) for name, one in discriminative.items()} or None,
        "amber_score": amber_score(round(100 * figures["chair"].value, 1), discriminative["all"].f1) if both else None,
        "variant": {"pipeline": options.settled, "vectors": options.vectors, "parser": options.parser},
        "seed": seed,
        "versions": versions(),
    }
    return Scored(data, _tables(generative, discriminative, options))


def compare_counts(a: AmberCounts, b: AmberCounts, seed: int) -> Scored:
    """Score the differences b - a of responses to the same queries; of yes-no questions the share of right answers."""
    data: dict[str, Any] = {"task": "compare", "version": VERSION, "n": len(a.descriptions) + len(a.verdicts)}
    parts = []
    if a.descriptions:
        one, other = (ratios(list(run.descriptions.values())) for run in (a, b))
        figures = paired(one, other, seed=seed)
        data["generative"] = {
            "n": len(a.descriptions),
            "differences": differences_json(figures, in_percent),
            "higher_is_better": HIGHER_IS_BETTER,
        }
        parts += [f"{len(a.descriptions)} descriptions", difference_table(figures, in_percent)]
    if a.verdicts:
        first, second = ([one.says is one.statement.truth for one in run.verdicts.values()] for run in (a, b))
        found, table = compare_right(first, second, list(a.verdicts), "accuracy", seed)
        data["discriminative"] = {**found, "higher_is_better": {"accuracy": True}}
        parts += [f"{len(first)} yes-no questions", table]
    return Scored({**data, "seed": seed, "versions": versions()}, "\n\n".join(parts))


def _tables(
    generative: GenerativeScore | None, discriminative: Mapping[str, DiscriminativeScore], options: AmberOptions
) -> str:
    parts = []
    if generative:
        figures = (
            ("CHAIR (lower is better)", generative.chair),
            ("Cover (higher is better)", generative.cover),
            ("Hal (lower is better)", generative.hal),
            ("Cog (lower is better)", generative.cog),
        )
        parts += [
            f"AMBER, {generative.n} descriptions, nouns by {options.settled}, word vectors {options.vectors}",
            aligned(
                [[name, f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"] for name, one in figures]
            ),
        ]
    if discriminative:
        names = ("accuracy", "precision", "recall", "f1")
        lines = [["", "n", *names, "neither Yes nor No"]]
        for group, one in discriminative.items():
            lines.append([group, str(one.n), *(f"{getattr(one, name):.1f}" for name in names), str(one.unread)])
        parts += ["AMBER, yes-no questions; precision, recall and F1 are those of No", aligned(lines)]
    return "\n\n".join(parts)
