"""`grounding eval chair`: score existing captions by CHAIR, or those of a model."""

from __future__ import annotations

from collections.abc import Iterator
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
        captions: JSON lines of objects with `image_id` and `caption`; an id is a number or COCO's name of the picture.
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
        from evals.chair.report import sample_json
        from evals.chair.score import CaptionScore, iter_captions
        from evals.chair.scoring import check_lengths, score_captions
        from grounding.files import check_writable, to_json, write_text

        check_lengths(self.lengths)
        if self.samples:
            check_writable(self.samples)
        resources = self.resources()
        lines: list[str] = []

        def noted(scores: Iterator[CaptionScore]) -> Iterator[CaptionScore]:
            """Keep the line of each caption, if they are wanted; the captions themselves are let go one by one."""
            for one in scores:
                if self.samples:
                    lines.append(to_json(sample_json(one), str(self.samples)))
                yield one

        scores = noted(resources.scores(iter_captions(file), file))
        found = score_captions(
            scores,
            resources.lexicon,
            file.stem,
            self.lengths,
            self.variant,
            resources.hashes,
            self.seed,
            details=False,
        )
        if self.samples:
            write_text(self.samples, "\n".join(lines) + "\n")
        if empty := found.data["empty"]:
            stderr().print(f"{empty} of {found.data['n']} captions are empty and count as naming nothing")
        if self.json:
            # Hashed after it was read, so that a file that cannot be read is refused as such.
            emit({**found.data, "hashes": {"captions": resources.hash_of(file), **resources.hashes}})
        else:
            stdout().print(found.text)
