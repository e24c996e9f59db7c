"""`grounding eval chair`: captions that exist already, scored without any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evals.commands.checks import check_seed
from grounding.console import emit, results, talk
from grounding.errors import MethodError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.chair.curve import CurvePoint
    from evals.chair.inventory import Inventory
    from evals.chair.score import ChairScore

TASK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ChairOptions:
    """What CHAIR needs beside captions.

    Attributes:
        ground_truth: JSON object of image ids and class lists, or a folder with COCO's instances_*.json and
            captions_*.json; a path, or https://...#sha256=HASH.
        synonyms: the synonym list, one class a line; a path, https://...#sha256=HASH, or `chair-synonyms`, which
            fetches the published list.
        pipeline: `rules` needs nothing installed; `nltk` is the published scripts' way.
        double_words: `original` is the first release's list; `standalone` adds "train track" as OPERA, PAI and others.
    """

    ground_truth: str
    synonyms: str
    pipeline: Literal["rules", "nltk"] = "rules"
    double_words: Literal["original", "standalone"] = "original"

    def inventory(self) -> Inventory:
        """The tables, the text pipeline and the ground truth."""
        from evals.chair.inventory import load_inventory

        return load_inventory(self.ground_truth, self.synonyms, self.pipeline, self.double_words)


@dataclass(frozen=True, kw_only=True)
class EvalChairCommand(ChairOptions):
    """Score captions by CHAIR, with what it does not see: recall, length, repetition, cut ends, truncation.

    Percent as papers print them. Intervals are 95 % percentile bootstraps over images.

    Attributes:
        captions: JSON lines of objects with `image_id` and `caption`.
        lengths: where the truncation curve cuts, in words and punctuation marks.
        samples: write what was counted of each caption here, as JSON lines.
        seed: of the bootstrap.
        json: print one JSON object on stdout instead of the tables.
    """

    captions: Path
    samples: Path | None = None
    lengths: tuple[int, ...] = (20, 30, 40, 50, 64, 80, 100, 120)
    seed: int = 0
    json: bool = False

    def run(self) -> int:
        """Score, and print tables or one JSON object."""
        from evals.chair.curve import truncation_curve
        from evals.chair.score import chair, read_captions

        check_seed(self.seed)
        if min(self.lengths, default=1) < 1:
            raise MethodError(f"--lengths {' '.join(map(str, self.lengths))} was given, expected lengths of at least 1")
        captions = read_captions(self.captions)
        inventory = self.inventory()
        scores = inventory.score(captions, self.captions)
        found = chair(scores, seed=self.seed)
        curve = truncation_curve(scores, inventory.lexicon, self.lengths)
        if self.samples:
            from evals.chair.report import sample_json
            from grounding.files import to_json, write_text

            lines = [to_json(sample_json(one), str(self.samples)) for one in scores]
            write_text(self.samples, "\n".join(lines) + "\n")
        if found.empty:
            talk().print(f"{found.empty} of {found.n} captions are empty and count as naming nothing")
        if self.json:
            emit(self._object(found, curve, inventory))
        else:
            self._print(found, curve)
        return 0

    def _object(self, found: ChairScore, curve: Sequence[CurvePoint], inventory: Inventory) -> dict[str, Any]:
        from evals.chair.report import chair_json, point_json
        from pipelines.provenance import versions

        return {
            "task": "chair",
            "version": TASK_VERSION,
            **chair_json(found),
            "truncation_curve": [point_json(point) for point in curve],
            "variant": {"pipeline": self.pipeline, "double_words": self.double_words},
            "hashes": {"captions": inventory.hash_of(self.captions), **inventory.hashes},
            "seed": self.seed,
            "versions": versions(),
        }

    def _print(self, found: ChairScore, curve: Sequence[CurvePoint]) -> None:
        from evals.chair.report import chair_table, curve_table

        results().print(f"CHAIR of {self.captions.name}, text by {self.pipeline}, double words {self.double_words}\n")
        results().print(chair_table({self.captions.stem: found}))
        if curve:
            results().print("\ncaptions cut after k words and punctuation marks\n")
            results().print(curve_table(curve))
