"""`grounding eval chair`: score existing captions by CHAIR, or those of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.generation import GenerationOptions
from evals.tasks.chair import ChairTask, ChairTaskOptions
from grounding.console import emit, stderr, stdout


@dataclass(frozen=True, kw_only=True)
class EvalChairCommand(GenerationOptions, ChairTaskOptions):
    """Score captions by CHAIR, with what it ignores: recall, length, repetition, unfinished ends, truncation.

    With --captions a file is scored, without a model. With --model the model describes the images of --data first; the
    run goes to the folder --out. Metrics are in percent, as in papers, with 95 % percentile bootstrap intervals over
    images.

    Attributes:
        captions: JSON lines of objects with `image_id` and `caption`.
        samples: with --captions, file for the counts of each caption, as JSON lines.
    """

    captions: Path | None = None
    samples: Path | None = None

    def run(self) -> int:
        """Score, and print tables or one JSON object."""
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
