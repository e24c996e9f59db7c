"""`grounding eval amber`: responses to AMBER's queries that exist already, scored without any model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evals.commands.checks import check_seed
from grounding.console import emit, results

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evals.amber.annotations import Annotations
    from evals.amber.discriminative import DiscriminativeScore
    from evals.amber.generative import GenerativeScore

TASK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalAmberCommand:
    """Score responses by AMBER's rules: CHAIR, Cover, Hal and Cog of descriptions; accuracy and F1 of answers.

    Percent as papers print them. The published variant is `--pipeline nltk --vectors en_core_web_lg`; without them
    the generative figures are near, not equal. Questions without a response are left out, as in the authors' script.

    Attributes:
        responses: JSON array or lines of `id` and `response`.
        data: AMBER's data folder, with annotations.json, relation.json and safe_words.txt.
        pipeline: `rules` looks every word up; `nltk` the nouns that NLTK tags.
        vectors: `en_core_web_lg` lets similar words count as equal; `none` only equal ones.
        seed: of the bootstrap of the generative figures.
        json: print one JSON object on stdout instead of the tables.
    """

    responses: Path
    data: Path
    pipeline: Literal["rules", "nltk"] = "rules"
    vectors: Literal["none", "en_core_web_lg"] = "none"
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Score, and print tables or one JSON object."""
        from evals.amber.annotations import read_annotations, read_responses
        from evals.amber.discriminative import read_verdict, score_groups

        check_seed(self.seed)
        annotations = read_annotations(self.data / "annotations.json")
        responses = read_responses(self.responses, annotations)
        generative = self._generative(annotations, responses)
        asked = [
            read_verdict(annotations.statements[one], text)
            for one, text in responses.items()
            if one in annotations.statements
        ]
        discriminative = score_groups(asked) if asked else {}
        if self.json:
            emit(self._object(generative, discriminative))
        else:
            self._print(generative, discriminative)
        return 0

    def _generative(self, annotations: Annotations, responses: Mapping[int, str]) -> GenerativeScore | None:
        from evals.amber.annotations import read_words
        from evals.amber.generative import score_description, score_descriptions
        from evals.amber.nouns import noun_finder, similarity

        described = [one for one in responses if one in annotations.scenes]
        if not described:
            return None
        words = read_words(self.data / "relation.json", self.data / "safe_words.txt")
        nouns, similar = noun_finder(self.pipeline), similarity(self.vectors)
        found = [
            score_description(one, nouns(responses[one]), annotations.scenes[one], words, similar) for one in described
        ]
        return score_descriptions(found, seed=self.seed)

    def _object(
        self, generative: GenerativeScore | None, discriminative: Mapping[str, DiscriminativeScore]
    ) -> dict[str, Any]:
        from evals.amber.discriminative import amber_score
        from evals.amber.generative import HIGHER_IS_BETTER
        from evals.report import percent
        from pipelines.provenance import versions

        figures = {name: getattr(generative, name) for name in HIGHER_IS_BETTER} if generative else {}
        both = generative is not None and "all" in discriminative
        return {
            "task": "amber",
            "version": TASK_VERSION,
            "generative": {
                "n": generative.n,
                **{name: percent(one.value) for name, one in figures.items()},
                "intervals": {name: [percent(one.low), percent(one.high)] for name, one in figures.items()},
                "higher_is_better": HIGHER_IS_BETTER,
            }
            if generative
            else None,
            "discriminative": {name: asdict(one) for name, one in discriminative.items()} or None,
            "amber_score": amber_score(round(100 * figures["chair"].value, 1), discriminative["all"].f1)
            if both
            else None,
            "variant": {"pipeline": self.pipeline, "vectors": self.vectors},
            "seed": self.seed,
            "versions": versions(),
        }

    def _print(self, generative: GenerativeScore | None, discriminative: Mapping[str, DiscriminativeScore]) -> None:
        from evals.report import aligned

        if generative:
            figures = (
                ("CHAIR (lower is better)", generative.chair),
                ("Cover (higher is better)", generative.cover),
                ("Hal (lower is better)", generative.hal),
                ("Cog (lower is better)", generative.cog),
            )
            results().print(
                f"AMBER, {generative.n} descriptions, nouns by {self.pipeline}, word vectors {self.vectors}\n"
            )
            cells = [
                [name, f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"] for name, one in figures
            ]
            results().print(aligned(cells))
        if discriminative:
            names = ("accuracy", "precision", "recall", "f1")
            lines = [["", "n", *names, "neither Yes nor No"]]
            for group, one in discriminative.items():
                lines.append([group, str(one.n), *(f"{getattr(one, name):.1f}" for name in names), str(one.unread)])
            results().print("\nAMBER, yes-no questions; precision, recall and F1 are those of No\n")
            results().print(aligned(lines))
