"""`grounding eval compare`: two files of captions over the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from evals.commands.chair import ChairOptions
from evals.commands.checks import check_seed
from grounding.console import emit, results, talk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evals.chair.compare import Comparison, Difference, Matched

TASK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalCompareCommand(ChairOptions):
    """Compare two runs by CHAIR: as they are, at equal recall, and at equal length.

    Differences are B - A, percent as papers print them, with 95 % bootstrap intervals over the images both describe
    and the p value of a paired permutation test; the share of captions that hallucinate also by McNemar's exact test.

    Attributes:
        a: the first run's captions, JSON lines of objects with `image_id` and `caption`.
        b: the second run's.
        seed: of bootstrap and permutation.
        json: print one JSON object on stdout instead of the tables.
    """

    a: Annotated[Path, tyro.conf.Positional]
    b: Annotated[Path, tyro.conf.Positional]
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Compare, and print tables or one JSON object."""
        from evals.chair.compare import compare
        from evals.chair.score import read_captions

        check_seed(self.seed)
        one, other = read_captions(self.a), read_captions(self.b)
        inventory = self.inventory()
        found = compare(inventory.score(one, self.a), inventory.score(other, self.b), inventory.lexicon, seed=self.seed)
        if found.only_a or found.only_b:
            talk().print(
                f"{found.n} images are in both files; {found.only_a} only in {self.a.name} and {found.only_b} only in "
                f"{self.b.name} are left out"
            )
        if self.json:
            hashes = {"a": inventory.hash_of(self.a), "b": inventory.hash_of(self.b), **inventory.hashes}
            emit(self._object(found, hashes))
        else:
            self._print(found)
        return 0

    def _object(self, found: Comparison, hashes: Mapping[str, str]) -> dict[str, Any]:
        from evals.chair.report import HIGHER_IS_BETTER
        from pipelines.provenance import versions

        return {
            "task": "compare",
            "version": TASK_VERSION,
            "n": found.n,
            "only_a": found.only_a,
            "only_b": found.only_b,
            "differences": differences_json(found.figures),
            "chair_s_exact": {"a_alone": found.a_alone, "b_alone": found.b_alone, "p": found.chair_s_exact_p},
            "recall_matched": matched_json(found.recall_matched),
            "length_matched": matched_json(found.length_matched),
            "higher_is_better": HIGHER_IS_BETTER,
            "variant": {"pipeline": self.pipeline, "double_words": self.double_words},
            "hashes": hashes,
            "seed": self.seed,
            "versions": versions(),
        }

    def _print(self, found: Comparison) -> None:
        print_ = results().print
        print_(f"A {self.a.name}, B {self.b.name}: {found.n} images, text by {self.pipeline}\n")
        print_(difference_table(found.figures))
        print_(
            f"\nhallucinating in A only {found.a_alone}, in B only {found.b_alone} captions: exact p "
            f"{found.chair_s_exact_p:.3g}"
        )
        matched = found.recall_matched
        how = f"{matched.cut_run.upper()} cut after {matched.k} words" if matched.cut_run else "equal as they are"
        print_(f"\nat equal recall ({how})\n")
        print_(difference_table(matched.figures))
        print_("\nat equal length (both cut to the shorter, image by image)\n")
        print_(difference_table(found.length_matched.figures))


def differences_json(figures: Mapping[str, Difference]) -> dict[str, Any]:
    """Each figure of both runs, the difference with its interval, and the p value."""
    from evals.chair.report import shown

    return {
        name: {
            "a": shown(name, one.a),
            "b": shown(name, one.b),
            "difference": shown(name, one.difference.value),
            "interval": [shown(name, one.difference.low), shown(name, one.difference.high)],
            "p": round(one.p, 6),
        }
        for name, one in figures.items()
    }


def matched_json(found: Matched) -> dict[str, Any]:
    """The differences after a cut, and the cut."""
    return {"cut": found.cut_run, "k": found.k, "differences": differences_json(found.figures)}


def difference_table(figures: Mapping[str, Difference]) -> str:
    """One line a figure."""
    from evals.chair.report import PLAIN, shown
    from evals.report import aligned

    lines = [["", "A", "B", "B - A", "p"]]
    for name, one in figures.items():
        digits = 2 if name in PLAIN else 1
        value, low, high = (
            f"{shown(name, part):+.{digits}f}"
            for part in (one.difference.value, one.difference.low, one.difference.high)
        )
        lines.append(
            [
                name,
                f"{shown(name, one.a):.{digits}f}",
                f"{shown(name, one.b):.{digits}f}",
                f"{value} [{low}, {high}]",
                f"{one.p:.4f}",
            ]
        )
    return aligned(lines)
