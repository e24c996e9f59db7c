"""`grounding eval compare`: compare two files of captions, or two runs of one task, over the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from evals.chair.options import ChairOptions
from evals.commands.generation import check_seed
from grounding.console import emit, stderr, stdout
from grounding.errors import UsageError

if TYPE_CHECKING:
    from evals.task import Scored


@dataclass(frozen=True, kw_only=True)
class EvalCompareCommand(ChairOptions):
    """Compare two runs, paired by image.

    Two run folders of one task need no further options: the task and its options are those of the first run. Two files
    of captions are compared by CHAIR and need --ground-truth and --synonyms. Differences are B - A in percent, with
    95 % bootstrap intervals over the images of both and the p value of a paired permutation test. Captions are compared
    as they are, at equal recall and at equal length. The share of captions with a hallucination, and of right yes-no
    answers, is also compared by McNemar's exact test.

    Attributes:
        a: the first run's folder, or its captions, JSON lines of objects with `image_id` and `caption`.
        b: the second run's.
        seed: of bootstrap and permutation test.
        json: print one JSON object on stdout instead of the tables.
    """

    a: Annotated[Path, tyro.conf.Positional]
    b: Annotated[Path, tyro.conf.Positional]
    ground_truth: str = ""
    synonyms: str = ""
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Compare, and print tables or one JSON object."""
        check_seed(self.seed)
        for path in (self.a, self.b):
            if not path.exists():
                raise UsageError(f"there is neither a file nor a folder {path}: check the path")
        if self.a.is_dir() != self.b.is_dir():
            raise UsageError(
                f"{self.a} and {self.b} are a file and a folder: give two files of captions, or two run folders"
            )
        found = self._runs() if self.a.is_dir() else self._captions()
        only_a, only_b = found.data["only_a"], found.data["only_b"]
        if only_a or only_b:
            stderr().print(
                f"{found.data['n']} are in both; {only_a} only in {self.a.name} and {only_b} only in {self.b.name} are "
                "left out"
            )
        if self.json:
            emit(found.data)
        else:
            stdout().print(found.text)
        return 0

    def _captions(self) -> Scored:
        from evals.chair.score import read_captions
        from evals.chair.scoring import compare_captions

        if not self.ground_truth or not self.synonyms:
            raise UsageError("--ground-truth and --synonyms are missing: files of captions are compared by CHAIR")
        one, other = read_captions(self.a), read_captions(self.b)
        resources = self.resources()
        hashes = {"a": resources.hash_of(self.a), "b": resources.hash_of(self.b), **resources.hashes}
        return compare_captions(
            resources.score(one, self.a),
            resources.score(other, self.b),
            resources.lexicon,
            (self.a.name, self.b.name),
            self.variant,
            hashes,
            self.seed,
        )

    def _runs(self) -> Scored:
        from evals.runs import RunFolder, compare_runs

        return compare_runs(RunFolder(self.a), RunFolder(self.b), self.seed)
