"""`grounding eval chair`: captions that exist already, or a model's own, scored by CHAIR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.checks import check_seed
from evals.commands.generation import GenerationOptions
from evals.tasks.chair import ChairAsking, ChairTask
from grounding.console import emit, stderr, stdout


@dataclass(frozen=True, kw_only=True)
class EvalChairCommand(GenerationOptions, ChairAsking):
    """Score captions by CHAIR, with what it does not see: recall, length, repetition, cut ends, truncation.

    With --captions a file is scored, and no model is needed. With --model the pictures of --data are described first,
    into the folder --out. Percent as papers print them. Intervals are 95 % percentile bootstraps over images.

    Attributes:
        captions: JSON lines of objects with `image_id` and `caption`.
        samples: with --captions, write what was counted of each caption here, as JSON lines.
    """

    captions: Path | None = None
    samples: Path | None = None

    def run(self) -> int:
        """Score, and print tables or one JSON object."""
        check_seed(self.seed)
        if self.generates(self.captions, "--captions"):
            return self.put(self.as_task(ChairTask))
        assert self.captions is not None
        self._score(self.captions)
        return 0

    def _score(self, file: Path) -> None:
        from evals.chair.score import read_captions
        from evals.chair.scoring import check_lengths, score_captions

        check_lengths(self.lengths)
        captions = read_captions(file)
        resources = self.resources()
        scores = resources.score(captions, file)
        hashes = {"captions": resources.hash_of(file), **resources.hashes}
        found = score_captions(scores, resources.lexicon, file.stem, self.lengths, self.variant, hashes, self.seed)
        if self.samples:
            from grounding.files import to_json, write_text

            lines = [to_json(one, str(self.samples)) for one in found.details]
            write_text(self.samples, "\n".join(lines) + "\n")
        if empty := found.data["empty"]:
            stderr().print(f"{empty} of {found.data['n']} captions are empty and count as naming nothing")
        if self.json:
            emit(found.data)
        else:
            stdout().print(found.text)
