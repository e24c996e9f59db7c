"""`grounding eval candidates` and `grounding calibrate confidence`: choose among candidates, and know how sure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.choice.part import Part
from grounding.candidates.rule import KINDS, Kind
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import EvalDataError, GroundingError, UsageError
from grounding.files import user_path
from pipelines.options import ModelOptions

if TYPE_CHECKING:
    from evals.choice.judged import Judged
    from evals.choice.questions import MaskQuestion
    from pipelines.referring import ReferringSegmentation


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(ModelOptions):
    """Which questions with known masks.

    Attributes:
        data: folders of annotated photos, with `images.json` and `instances_some.json` or with COCO's `instances.json`;
            one in three photos, by a hash of the id, is for fitting and the others are held out.
        scenes: this many freshly drawn scenes of `--seed` instead of photos.
        absent: also ask for one thing per picture that is not in it, which only "none" answers rightly.
        limit: most questions; 0 is all.
    """

    data: tuple[Path, ...] = ()
    scenes: int = 0
    absent: bool = True
    limit: int = 0

    def questions(self, part: Part) -> list[MaskQuestion]:
        """The questions of a part of the photos, or about scenes.

        Raises:
            UsageError: photos and scenes were both given, or neither.
            GroundingError: the photos cannot be read.
        """
        from evals.choice.questions import photo_questions, scene_questions

        if bool(self.data) == bool(self.scenes) or min(self.scenes, self.limit, self.seed) < 0:
            raise UsageError(
                f"--data with {len(self.data)} folders, --scenes {self.scenes}, --limit {self.limit} and --seed "
                f"{self.seed} were given, expected annotated photos or a number of scenes, and numbers from 0"
            )
        if self.scenes:
            found = list(scene_questions(self.seed, self.scenes, absent=self.absent))
        else:
            folders = [user_path(str(folder)) for folder in self.data]
            found = photo_questions(folders, part, self.seed, absent=self.absent, left_out=_left_out)
        return found[: self.limit or None]

    def pipeline(self, kinds: Sequence[Kind]) -> ReferringSegmentation:
        """Load what the kinds of candidates need.

        Raises:
            ModelError: the questions are about scenes, whose words the model does not know.
        """
        from grounding.scenes.known_words import check_scene_words

        options = replace(self, candidates="sam3") if "sam3" in kinds else self
        return options.load(check=check_scene_words if self.scenes else None)

    def what(self, part: Part, asked: Sequence[MaskQuestion]) -> str:
        """The questions in words, with the hash of their truth."""
        from evals.choice.questions import truth_hash

        pictures = len({one.picture for one in asked})
        there = sum(one.truth is not None for one in asked)
        source = f"scenes of seed {self.seed}" if self.scenes else f"photos ({part})"
        return f"{there} things and {len(asked) - there} absent ones on {pictures} {source}, {truth_hash(asked)}"

    def judged(
        self, pipe: ReferringSegmentation, asked: Iterable[MaskQuestion], kinds: Sequence[Kind], count: int
    ) -> tuple[dict[Kind, list[Judged]], int]:
        """Answer the questions under a progress bar; also the number of those that failed.

        Raises:
            EvalDataError: none was answered.
        """
        from evals.choice.judged import judge_kinds

        failures: list[GroundingError] = []

        def failed(question: MaskQuestion, error: GroundingError) -> None:
            failures.append(error)
            stderr().print(f"failed: picture {question.picture}, {question.words!r}: {error}")

        with progress_bar(stderr()) as progress:
            task = progress.add_task("ask", total=count)
            found = judge_kinds(pipe, asked, kinds, lambda done: progress.advance(task, done), failed)
        if len(failures) == count:
            raise EvalDataError(f"none of the {count} questions was answered; the first: {failures[0]}")
        return found, len(failures)


@dataclass(frozen=True, kw_only=True)
class EvalCandidatesCommand(QuestionOptions):
    """Measure masks by kind of candidates, and how well the confidence tells right masks from wrong ones.

    Reported by kind: mean IoU and its paired difference from `points`, the mean IoU of the best candidate there was,
    the share of answers with an IoU of at least 0.5, the AUROC of the confidence and of the segmenter's own estimate,
    and the reliability of the confidence as a table and a diagram. Intervals are 95 % percentile bootstraps, resampled
    by picture. Only photos that are not for fitting are used, unless `--part` says otherwise.

    Exit codes: 0 success; 1 some questions failed, each with its reason on stderr; 2 refused.

    Attributes:
        kinds: of candidates to compare; the first is what the others are compared with.
        part: which photos: `held-out`, `fit` or `all`.
        out: folder for scores.json, scores.md and reliability.png.
        json: print one JSON object on stdout instead of the tables.
    """

    kinds: tuple[Kind, ...] = ("points", "boxes")
    part: Part = "held-out"
    out: Path = Path("out/candidates")
    json: bool = False

    def run(self) -> int:
        """Measure, print, and write the files."""
        from grounding.runs.lock import hold

        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UsageError(
                f"--kinds {' '.join(self.kinds)} was given, expected some of {', '.join(KINDS)}, each once"
            )
        asked, config = self.questions(self.part), self.config()
        with hold(self.out):
            return self._measure(asked, config.plain())

    def _measure(self, asked: Sequence[MaskQuestion], config: dict[str, Any]) -> int:
        from evals.choice.report import draw_reliability, report
        from evals.choice.scores import kind_scores
        from grounding.files import write_json, write_text

        pipe = self.pipeline(self.kinds)
        found, failures = self.judged(pipe, asked, self.kinds, len(asked))
        first = self.kinds[0]
        data: dict[str, Any] = {
            "config": config,
            "what": self.what(self.part, asked),
            "failed": failures,
            "notes": _notes(pipe, self.kinds),
            "kinds": {
                kind: kind_scores(answers, None if kind == first else found[first])
                for kind, answers in found.items()
                if answers
            },
        }
        write_json(self.out / "scores.json", data)
        text = report(data)
        write_text(self.out / "scores.md", text)
        draw_reliability(data["kinds"], self.out / "reliability.png")
        if self.json:
            emit(data)
        else:
            stdout().print(text, markup=False, highlight=False)
        return 1 if failures else 0


@dataclass(frozen=True, kw_only=True)
class CalibrateConfidenceCommand(QuestionOptions):
    """Fit how sure an answer is on annotated pictures, and write the method with it as a file for --method.

    The confidence is a logistic function of the agreement of mask and map, the lead over the next thing, the sharpness
    of the map, the mask's size, the segmenter's estimate, and the model's own answer when it is asked whether there is
    such a thing. It holds for the model, the segmenter and the candidates that it was fitted with. Choice and
    confidence are also measured by five-fold cross-validation over pictures. Photos that are held out are not used;
    `grounding eval candidates` measures on them.

    Exit codes: 0 success; 1 some questions failed, each with its reason on stderr; 2 refused.

    Attributes:
        weights: also fit the weights by which one of the candidates is chosen, from the method's own on.
        ask: let the model's own answers count, which it is then asked for, twice for every answer.
        out: the method file to write.
        json: print one JSON object on stdout instead of the text.
    """

    weights: bool = False
    ask: bool = True
    out: Path = Path("method.yaml")
    json: bool = False

    def run(self) -> int:
        """Ask, fit, write the file and print what was fitted."""
        from evals.choice.calibrate import Calibrator
        from evals.choice.presence import Presence
        from evals.choice.scores import kind_scores
        from grounding.commands.calibration import check_out
        from grounding.files import write_text

        check_out(self.out)
        asked = self.questions("fit")
        pipe = self.pipeline(())
        kind = pipe.method.candidates.kind
        if self.weights and kind == "points":
            raise UsageError("--weights choose among several prompts' candidates: add --candidates boxes, auto or sam3")
        kinds: tuple[Kind, ...] = (kind,) if kind == "points" else ("points", kind)
        found, failures = self.judged(pipe, asked, kinds, len(asked))
        what = self.what("fit", asked)
        with progress_bar(stderr()) as progress:
            task = progress.add_task("ask again", total=None)
            ask = Presence(pipe, lambda done: progress.advance(task, done)) if self.ask else list
            fit = Calibrator(pipe.method, pipe.source.name, pipe.segmenter.name, what, self.weights, ask)
            fitted = fit(found[kind])
        write_text(self.out, fitted.method.to_yaml())
        points = None if kind == "points" else found["points"]
        unseen = None if fitted.unseen is None else kind_scores(fitted.unseen, points)
        data = {
            "out": str(self.out),
            "what": what,
            "failed": failures,
            "notes": [] if self.weights else _notes(pipe, (kind,)),
            "on_the_fitted": kind_scores(fitted.answers, points),
            "cross_validated": unseen,
        }
        if self.json:
            emit(data)
        else:
            stdout().print(_summary(data), markup=False, highlight=False)
        return 1 if failures else 0


def _notes(pipe: ReferringSegmentation, kinds: Sequence[Kind]) -> list[str]:
    """Which kinds of candidates were chosen by other weights than the method's, and why."""
    from pipelines.choosing import with_candidates

    rules = [with_candidates(pipe.method, kind).candidates for kind in kinds]
    found = [rule.why_default(pipe.source.name, pipe.segmenter.name) for rule in rules]
    return [note for note in found if note is not None]


def _left_out(photo: Path, error: GroundingError) -> None:
    stderr().print(f"failed: {photo}: {error}")


def _summary(data: dict[str, Any]) -> str:
    """What was fitted, and how good it is on the same pictures and on pictures left out."""
    lines = [
        f"{data['out']}: fitted on {data['what']} (use it with --method; measure it with grounding eval candidates)"
    ]
    lines += [f"note: {note}" for note in data["notes"]]
    for name, said in (
        ("on_the_fitted", "on the same answers"),
        ("cross_validated", "on pictures left out, in five folds"),
    ):
        scores = data[name]
        if scores is None:
            lines.append(f"{said}: too few answers")
            continue
        auroc = scores["auroc"]["confidence"]["all"]
        over = (
            ""
            if "minus_points" not in scores
            else " ({:+.3f} [{:.3f}, {:.3f}] over points)".format(*scores["minus_points"])
        )
        sure = "" if auroc is None else f", AUROC {auroc[0]:.3f}"
        lines.append(f"{said}: mIoU {scores['miou'][0]:.3f}{over}{sure}")
    return "\n".join(lines)
