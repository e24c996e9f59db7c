"""`grounding eval amber`: score existing responses to AMBER's queries, or those of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.generation import GenerationOptions
from evals.tasks.amber import AmberTask, AmberTaskOptions
from grounding.console import emit, stdout


@dataclass(frozen=True, kw_only=True)
class EvalAmberCommand(GenerationOptions, AmberTaskOptions):
    """Score responses by AMBER's rules: CHAIR, Cover, Hal and Cog of descriptions; accuracy and F1 of answers.

    With --responses a file is scored, without a model. With --model the model answers the queries first; the run goes
    to the folder --out. Metrics are in percent, as in the paper. The published variant is `--pipeline nltk --vectors
    en_core_web_lg`; without them the generative metrics are close to the published ones, not equal. Questions without a
    response are left out, as in the authors' script.

    Attributes:
        responses: JSON array or lines of `id` and `response`, or of `question_id` and `text`.
    """

    responses: Path | None = None

    def run(self) -> int:
        """Score, and print tables or one JSON object."""
        from evals.amber.annotations import read_annotations, read_responses
        from evals.amber.scoring import count, score_counts

        if self.generates(self.responses, "--responses"):
            return self.put(self.as_task(AmberTask))
        assert self.responses is not None
        annotations = read_annotations(self.data / "annotations.json")
        counts = count(read_responses(self.responses, annotations), annotations, self)
        found = score_counts(counts, self, self.seed)
        if self.json:
            emit(found.data)
        else:
            stdout().print(found.text)
        return 0
