"""Hallucination on drawn scenes with planted co-occurrences: CHAIR of descriptions and POPE of yes-no answers, offline.

The scorers are those of `evals.chair` and `evals.yesno`. A scene's classes are its shapes; the truth is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import tyro
from PIL import Image

from evals.chair.compare import differences
from evals.chair.lexicon import Lexicon
from evals.chair.report import HIGHER_IS_BETTER, chair_json, chair_table, sample_json, shown
from evals.chair.score import CaptionScore, ImageCaption, chair, score_caption
from evals.chair.words import by_rules
from evals.report import aligned, percent
from evals.statistics import bootstrap_difference
from evals.task import Answer, Sample, Scored
from evals.yesno.confusion import Answered, answered, score_answers, yes_no_json, yes_no_ratios
from evals.yesno.parsers import PARSERS
from grounding.errors import UsageError
from grounding.scenes.drawing import SHAPES
from grounding.scenes.habits import HABITS, HabitScene, measuring_scene
from grounding.scenes.language import DESCRIBE, PLURALS

if TYPE_CHECKING:
    from grounding.models.base import VLM

SPLITS = ("random", "popular", "adversarial")
QUESTION = "is there {article} {shape} ?"
_POSITIVES = 3  # present objects per scene and split, each followed by an absent one; POPE's number
_PURPOSE = 13
_PARSER = PARSERS["official"]


@dataclass(frozen=True)
class PresenceQuestion:
    """One yes-no question: its split, the shape, and whether the scene shows it."""

    split: str
    shape: str
    truth: bool

    @property
    def text(self) -> str:
        """The question in the language of the scenes."""
        return QUESTION.format(article="an" if self.shape[0] in "aeiou" else "a", shape=self.shape)


@dataclass(frozen=True)
class ScenesTask:
    """Describe drawn scenes, which keep and break planted co-occurrences in turn, and answer yes-no questions.

    Attributes:
        scenes: number of scenes.
        seed: of the set of scenes.
        prompt: instruction for the description.
        yes_no: also ask POPE's questions: six per split and scene, fewer where too few shapes are absent.
    """

    scenes: int = 200
    # The command line's own --seed draws samples and tokens.
    seed: Annotated[int, tyro.conf.arg(name="scene-seed")] = 0
    prompt: str = DESCRIBE
    yes_no: bool = True

    name: ClassVar[str] = "scenes-hallucination"
    version: ClassVar[int] = 2
    max_new_tokens: ClassVar[int] = 64

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.seed < 0:
            raise UsageError(
                f"scenes {self.scenes} and seed {self.seed} were given, expected at least one scene and a seed from 0"
            )

    def samples(self) -> list[Sample]:
        """Return the descriptions, then the questions, so that texts of a batch have similar lengths; see `Task`."""
        drawn = [measuring_scene(self.seed, index) for index in range(self.scenes)]
        asked = pope_questions([one.shapes for one in drawn], self.seed) if self.yes_no else []
        found = [self._sample(index, one, "", self.prompt, {"kind": "describe"}) for index, one in enumerate(drawn)]
        for index, questions in enumerate(asked):
            for number, one in enumerate(questions):
                fields = {"kind": "yes-no", **asdict(one)}
                found.append(self._sample(index, drawn[index], f"-{number:02d}", one.text, fields))
        return found

    def check_model(self, vlm: VLM) -> None:
        """Refuse a model that does not know the scenes' words; see `evals.task.Particular`."""
        from grounding.scenes.known_words import check_scene_words

        check_scene_words(vlm)

    def _sample(self, index: int, drawn: HabitScene, ending: str, question: str, fields: Mapping[str, Any]) -> Sample:
        name, picture = _name(index), partial(_picture, self.seed, index)
        truth = {"scene": index, "shapes": sorted(drawn.shapes), "broken": drawn.broken}
        return Sample(name + ending, name, picture, question, {**truth, **fields}, group=name)

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score CHAIR over all scenes, CHAIR over scenes that break a co-occurrence, and POPE by split; see `Task`."""
        described = caption_scores(answers)
        broken = {int(one.fields["scene"]) for one in answers if one.fields["broken"]}
        rows = {"all scenes": chair(described, seed=seed)}
        alone = [one for one in described if one.image_id in broken]
        if alone:
            rows["broken habits"] = chair(alone, seed=seed)
        splits = {name: score_answers(found, seed=seed) for name, found in yes_no_answers(answers).items()}
        data = chair_json(rows["all scenes"])
        data["broken"] = chair_json(rows["broken habits"]) if alone else None
        data["pope"] = {name: yes_no_json(found) for name, found in splits.items()}
        text = chair_table(rows)
        if splits:
            lines = [["POPE", "n", "accuracy", "F1", "yes-ratio", "unparsable"]]
            for name, found in splits.items():
                figures = [f"{percent(one.value):.1f}" for one in (found.accuracy, found.f1, found.yes_ratio)]
                lines.append([name, str(found.n), *figures, str(found.unparsable)])
            text += "\n\n" + aligned(lines)
        return Scored(data, text, [{"id": _name(one.image_id), **sample_json(one)} for one in described])

    def compare(self, a: Sequence[Answer], b: Sequence[Answer], seed: int) -> Scored:
        """Score the differences b - a of CHAIR, and of POPE's accuracy by split; see `Comparable`."""
        found = differences(caption_scores(a), caption_scores(b), seed=seed)
        data: dict[str, Any] = {
            name: [shown(name, value) for value in (one.difference.value, one.difference.low, one.difference.high)]
            for name, one in found.items()
        }
        other = yes_no_answers(a)
        for split, mine in yes_no_answers(b).items():
            ratios = [yes_no_ratios(run)["accuracy"] for run in (mine, other[split])]
            change = bootstrap_difference(*ratios, seed=seed)
            data[f"pope_{split}"] = [percent(value) for value in (change.value, change.low, change.high)]
        lines = [["b - a", "", "95 %"]]
        lines += [[name, f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]"] for name, (value, low, high) in data.items()]
        return Scored({"differences": data, "higher_is_better": HIGHER_IS_BETTER}, aligned(lines))


@cache
def scene_lexicon() -> Lexicon:
    """Build CHAIR's tables for scenes: the shapes and their plurals, without double words."""
    return Lexicon({word: shape for shape in SHAPES for word in (shape, PLURALS[shape])}, {})


def caption_scores(answers: Sequence[Answer]) -> tuple[CaptionScore, ...]:
    """Score every description among the answers by CHAIR; `image_id` is the scene's number."""
    described = [one for one in answers if one.fields["kind"] == "describe"]
    truth = {int(one.fields["scene"]): frozenset(one.fields["shapes"]) for one in described}
    captions = [ImageCaption(int(one.fields["scene"]), one.text) for one in described]
    return tuple(score_caption(one, truth, scene_lexicon(), by_rules) for one in captions)


def yes_no_answers(answers: Sequence[Answer]) -> dict[str, tuple[Answered, ...]]:
    """Read POPE's answers by split; splits without a question are left out."""
    found: dict[str, list[Answered]] = {name: [] for name in SPLITS}
    for one in answers:
        if one.fields["kind"] == "yes-no":
            read = answered(int(one.fields["scene"]), bool(one.fields["truth"]), one.text, _PARSER)
            found[str(one.fields["split"])].append(read)
    return {name: tuple(split) for name, split in found.items() if split}


def pope_questions(scenes: Sequence[frozenset[str]], seed: int) -> list[tuple[PresenceQuestion, ...]]:
    """Draw POPE's questions about scenes (Li et al., EMNLP 2023, section 3, and the released code).

    Per scene and split: up to three present shapes, each followed by an absent one. Random: absent shapes are drawn
    uniformly. Popular: the most frequent shape over all scenes that is absent and not used yet. Adversarial: the shape
    that most often occurs with the present one; with a planted co-occurrence, its second shape.

    Args:
        scenes: per scene the shapes that it shows.
        seed: of the draws.

    Notes:
        Our choices. Co-occurrence is that of the training scenes and is not counted in the measuring scenes, which keep
        and break planted co-occurrences in turn. A scene with too few absent shapes gets fewer questions, so that yes
        and no stay balanced. The adversarial split asks first for present shapes whose partner is absent, because POPE
        takes objects in the order of the annotations, and scenes have none.
    """
    frequency = Counter(shape for shapes in scenes for shape in shapes)
    popular = sorted(SHAPES, key=lambda shape: (-frequency[shape], shape))
    asked = []
    for index, shapes in enumerate(scenes):
        rng = np.random.default_rng((seed, index, _PURPOSE))
        present = [str(one) for one in rng.permutation(sorted(shapes))]
        absent = [str(one) for one in rng.permutation(sorted(set(SHAPES) - shapes))]
        count = min(_POSITIVES, len(present), len(absent))
        tempted = sorted(present, key=lambda shape: _brings().get(shape) not in absent)
        asked.append(
            (
                *_pairs("random", present[:count], {}, absent),
                *_pairs("popular", present[:count], {}, [shape for shape in popular if shape in absent]),
                *_pairs("adversarial", tempted[:count], _brings(), absent),
            )
        )
    return asked


def _pairs(
    split: str, present: Sequence[str], goes_with: Mapping[str, str], absent: Sequence[str]
) -> list[PresenceQuestion]:
    """Ask for each present shape, then for an absent one: its partner if absent, else the next one left."""
    left = list(absent)
    reserved = {goes_with[shape] for shape in present if goes_with.get(shape) in left}
    found = []
    for shape in present:
        wanted = goes_with.get(shape)
        free = [one for one in left if one not in reserved] or left
        other = wanted if wanted in left else free[0]
        left.remove(other)
        found += [PresenceQuestion(split, shape, True), PresenceQuestion(split, other, False)]
    return found


def _brings() -> dict[str, str]:
    return {habit.given: habit.then for habit in HABITS}


def _picture(seed: int, index: int) -> Image.Image:
    return measuring_scene(seed, index).image


def _name(index: int) -> str:
    return f"scene-{index:05d}"
