"""`grounding eval scenes`: measure points and masks on drawn scenes, whose truth is exact."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, UsageError
from pipelines.options import ModelOptions

if TYPE_CHECKING:
    from evals.scenes import Answers, ExpressionSample

TASK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EvalScenesCommand(ModelOptions):
    """Measure pointing and masks on freshly drawn scenes.

    Pointing accuracy is the share of samples whose best point lies on the target's visible pixels. Intervals are 95 %
    percentile bootstraps, resampled by image. The controls use the same samples: a point at the image's centre, the map
    of words for another object of the scene, and a point inside the target, which is the segmenter's upper bound.

    Exit codes: 0 success; 1 some samples failed, which counts as a miss, each with its reason on stderr; 2 refused.

    Attributes:
        model: `starter`, which was trained on such scenes, a folder written by save_pretrained, or a hub id.
        limit: number of expressions.
        seed: of the scenes; with every seed they differ from the starter's training scenes.
        per_scene: most expressions of one scene; with 1 the samples are independent.
        ablate: also measure the method with each of its parts switched off.
        methods: other methods to measure on the same recordings, shipped ones or YAML files; `all` is every shipped one
            that fits the model. The differences are from the method named with --method.
        vary: variants of the method to measure too: `contrasts`, every way of contrast against every background in the
            place of its own; `refinements`, one at its end.
        json: print one JSON object on stdout instead of the table.
    """

    model: str = "starter"
    limit: int = 200
    seed: int = 0
    per_scene: int = 1
    ablate: bool = False
    methods: tuple[str, ...] = ()
    vary: tuple[Literal["contrasts", "refinements"], ...] = ()
    json: bool = False

    def run(self) -> int:
        """Measure, and print a table or one JSON object."""
        if min(self.limit, self.per_scene) < 1 or self.seed < 0:
            raise UsageError(
                f"--limit {self.limit} --per-scene {self.per_scene} --seed {self.seed} were given, expected limit and "
                "per-scene of at least 1 and a seed from 0"
            )
        config = self.config()
        from evals.scenes import answer_samples, draw_samples, fitting
        from evals.variants import GENERIC, compared
        from grounding.scenes.known_words import check_scene_words

        compared(self.chosen_method(), self.methods, self.vary)  # refuses a misspelt name before a model is loaded
        pipe = self.load(check=check_scene_words)
        first = next(draw_samples(self.seed, 1))
        asked = getattr(pipe.source, "default_question", GENERIC)
        others = fitting(pipe, compared(pipe.method, self.methods, self.vary, asked), first, print_left_out)

        started, refused = time.perf_counter(), 0

        def failed(sample: ExpressionSample, error: GroundingError) -> None:
            nonlocal refused
            refused += 1
            stderr().print(f"failed: scene {sample.scene}, {sample.expression!r}: {error}")

        with progress_bar(stderr()) as progress:
            task = progress.add_task("eval scenes", total=self.limit)
            answers = answer_samples(
                pipe,
                draw_samples(self.seed, self.limit, self.per_scene),
                ablate=self.ablate,
                methods=others,
                advance=lambda count: progress.advance(task, count),
                failed=failed,
            )
        seconds = time.perf_counter() - started
        if self.json:
            emit(self._object(answers, config.plain(), seconds))
        else:
            self._print(answers, seconds)
        return 1 if refused else 0

    def _object(self, answers: Answers, config: dict[str, Any], seconds: float) -> dict[str, Any]:
        from evals.report import change, change_json, score, score_json
        from evals.scenes import CENTRE, FULL, OTHER, TRUTH
        from grounding.runs.provenance import short_hash, versions

        controls = (CENTRE, OTHER, TRUTH)
        outcomes, scenes = answers.outcomes, answers.scenes
        task = {"task": "scenes", "version": TASK_VERSION, "limit": self.limit, "per_scene": self.per_scene}
        return {
            **task,
            **score_json(score(outcomes[FULL], scenes)),
            "seed": self.seed,
            "model": config["model"],
            "segmenter": config["segmenter"],
            "method": config["method"],
            "kinds": {kind: score_json(found) for kind, found in kind_scores(answers).items()},
            "controls": {name: score_json(score(outcomes[name], scenes)) for name in controls if any(outcomes[name])},
            "ablations": {
                name: {
                    **score_json(score(found, scenes)),
                    "change": change_json(change(found, outcomes[FULL], scenes)),
                }
                for name, found in outcomes.items()
                if name not in (FULL, *controls)
            },
            "config": config,
            "config_hash": short_hash({**config, **task}, 12),
            "versions": versions(),
            "seconds": round(seconds, 1),
        }

    def _print(self, answers: Answers, seconds: float) -> None:
        from evals.report import change, score, score_table, unanswered
        from evals.scenes import CENTRE, FULL, OTHER, TRUTH

        outcomes, scenes = answers.outcomes, answers.scenes
        controls = (CENTRE, OTHER, TRUTH)
        names = [FULL, *(name for name in outcomes if name not in (FULL, *controls)), *controls]
        rows = {name: score(outcomes[name], scenes) for name in names if any(outcomes[name])}
        changes = {
            name: change(outcomes[name], outcomes[FULL], scenes) for name in rows if name not in (FULL, *controls)
        }
        stdout().print(
            f"scenes, seed {self.seed}: {self.model} with {self.segmenter}, method {self.chosen_method().name}, "
            f"{seconds:.0f} s\n"
        )
        stdout().print(score_table(rows, changes))
        for said in unanswered({name: (row.failed, row.n) for name, row in rows.items()}):
            stdout().print(said, markup=False, highlight=False)
        stdout().print("\nby kind of expression, full method\n")
        stdout().print(score_table(kind_scores(answers)))


def print_left_out(name: str, why: GroundingError) -> None:
    """Say on stderr that a method is not compared."""
    stderr().print(f"left out: method {name}: {why}", markup=False, highlight=False)


def kind_scores(answers: Answers) -> dict[str, Any]:
    """Score the full method by kind of expression, in alphabetical order."""
    from evals.report import score
    from evals.scenes import FULL

    found = {}
    for kind in sorted(set(answers.kinds)):
        mine = [index for index, one in enumerate(answers.kinds) if one == kind]
        found[kind] = score([answers.outcomes[FULL][i] for i in mine], [answers.scenes[i] for i in mine])
    return found
