"""Open-ended segmentation as a task: box and mask AP of everything that a model names in an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from evals.detection.scoring import KINDS, faster_coco_eval, score_detections, score_recall
from evals.detection.truth import DetectionTruth, read_truth, scene_truth
from evals.report import PERCENT_DIGITS, aligned, percent
from evals.statistics import Interval, bootstrap, mean_of
from evals.task import Answer, RunPlan, Sample, Scored, SelfAnswer
from grounding.errors import UsageError
from grounding.io import coco_result
from pipelines.open_ended_options import DiscoveryOptions
from pipelines.open_ended_result import runs_json
from pipelines.referring import DEFAULT_SEGMENTER, method_for

if TYPE_CHECKING:
    from PIL import Image

    from grounding.models.base import VLM
    from pipelines.open_ended_result import OpenEndedResult

_SHOWN = ("AP", "AP50", "AP75", "fixed_AP", "AR_100", "AR_300")
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class DiscoverTask(DiscoveryOptions):
    """Segment everything that a model names, on data in COCO's or LVIS's format or on drawn scenes.

    Names are mapped to the data's categories by their words and synonyms, and by --embedder where one is given; what
    maps to none counts for class-agnostic recall alone (mAR, as CODA scores corner cases). Needs the extra eval.

    Attributes:
        data: annotations in COCO's or LVIS's format: the JSON file, or a folder with instances.json; drawn scenes where
            left out.
        images: folder of the pictures; the annotations' own, or its subfolder images, where left out.
        scenes: number of drawn scenes, without --data.
        seed: of the scenes.
        segmenter: see `grounding segment`.
        method: see `grounding segment`.
    """

    data: str = ""
    images: str = ""
    scenes: int = 100
    seed: Annotated[int, tyro.conf.arg(name="scene-seed")] = 0
    segmenter: str = DEFAULT_SEGMENTER
    method: str = "auto"

    name: ClassVar[str] = "discover"
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = 256

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.seed < 0:
            raise UsageError(
                f"scenes {self.scenes} and seed {self.seed} were given, expected at least one scene and a seed from 0"
            )
        self.settings()

    @property
    def prompt(self) -> str:
        """The question for the objects; empty for the model's own."""
        return self.question or ""

    def samples(self) -> Sequence[Sample]:
        """Return one sample per image; see `Task.samples`."""
        faster_coco_eval()  # a missing package is said before anything is computed
        truth = self._truth()
        rows = truth.data["images"]
        return [
            Sample(
                str(one["id"]), f"image-{one['id']}", truth.pictures[one["id"]], self.prompt, {"image_id": one["id"]}
            )
            for one in rows
        ]

    def check_model(self, vlm: VLM) -> None:
        """Refuse a model that does not know the scenes' words, where scenes are asked about."""
        if not self.data:
            from grounding.scenes.known_words import check_scene_words

            check_scene_words(vlm)

    def configuration(self, plan: RunPlan) -> dict[str, Any]:
        """What decides the answers beside model and decoding; see `evals.task.SelfAnswering`."""
        from grounding.runs.provenance import segmenter_identity, settings_text
        from pipelines.provenance import embedder_identity

        name, weights = segmenter_identity(self.segmenter)
        return {
            "segmenter": name,
            "segmenter_weights": weights,
            "method": settings_text(method_for(plan.model, self.method)),
            "settings": asdict(self.settings()),
            "embedder": None if self.embedder is None else embedder_identity(self.embedder),
            "top_categories": self.top_categories,
        }

    def answerer(self, vlm: VLM, plan: RunPlan) -> Any:
        """Make the function that answers samples; see `evals.task.SelfAnswering`."""
        from dataclasses import replace

        from grounding.segmenters.load import load_segmenter
        from pipelines.open_ended import OpenEndedSegmentation

        pipe = OpenEndedSegmentation(
            vlm,
            load_segmenter(self.segmenter, plan.device, plan.dtype),
            method_for(plan.model, self.method),
            self.settings(),
            replace(plan.decoding, stop_at_repeats=True),
            plan.steering,
            self.finder(self._truth().vocabulary),
            plan.batch_size,
        )

        def answer(loaded: Sequence[tuple[Sample, Image.Image]]) -> list[SelfAnswer]:
            return [_answer(result) for result in pipe([image for _, image in loaded])]

        return answer

    def score(self, answers: Sequence[Answer], folder: Path, seed: int) -> Scored:
        """Score boxes and masks; see `Task`."""
        told = [json.loads(one.text) for one in answers]
        numbers = [int(one.fields["image_id"]) for one in answers]
        truth = self._truth().of(numbers)
        results = [
            {**found, "image_id": number} for number, one in zip(numbers, told, strict=True) for found in one["results"]
        ]
        known = [one for one in results if one["category_id"] is not None]
        once = _once(results)
        scores: dict[str, dict[str, float]] = {
            kind: score_detections(truth, known, kind) | score_recall(truth, once, kind) for kind in KINDS
        }
        runs = {
            name: bootstrap(mean_of([one["runs"][name] for one in told], numbers), seed=seed)
            for name in ("model", "prompts", "encoder")
        }
        data: dict[str, Any] = {
            "data": self.data or f"{self.scenes} drawn scenes of seed {self.seed}",
            "images": len(answers),
            "instances": len(once),
            "unmatched": sum(one["category_id"] is None for one in results),
            **{kind: {name: _percent(value) for name, value in found.items()} for kind, found in scores.items()},
            "runs_per_image": {name: round(one.value, _DIGITS) for name, one in runs.items()},
            "intervals": {f"runs_per_image_{name}": _bounds(one) for name, one in runs.items()},
            "higher_is_better": {f"{kind}_{name}": True for kind, found in scores.items() for name in found},
        }
        details = [
            {"id": one.id, "instances": len(mine["results"]), "runs": mine["runs"]}
            for one, mine in zip(answers, told, strict=True)
        ]
        return Scored(data, _table(scores, runs, data), details)

    def _truth(self) -> DetectionTruth:
        return read_truth(self.data, self.images) if self.data else scene_truth(self.seed, self.scenes)


def _answer(result: OpenEndedResult) -> SelfAnswer:
    """A result as the text of an answer: its instances as COCO results without an image, and the runs."""
    found = []
    for one in result.instances:
        entry = dict(coco_result(one.segment, 0))
        del entry["image_id"]
        found.append(entry | {"category_id": one.category_id, "name": one.name, "score": round(one.score, _DIGITS)})
    text = json.dumps(
        {"results": found, "answers": [one.text for one in result.answers], "runs": runs_json(result.runs)},
        ensure_ascii=False,
    )
    tokens = sum(one.tokens for one in result.answers)
    return SelfAnswer(text, tokens, all(one.finished for one in result.answers))


def _once(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results without those that say the same mask again under another category."""
    seen: dict[tuple[int, str], Mapping[str, Any]] = {}
    for one in results:
        key = (one["image_id"], one["segmentation"]["counts"])
        if key not in seen or one["score"] > seen[key]["score"]:
            seen[key] = one
    return list(seen.values())


def _table(scores: Mapping[str, Mapping[str, float]], runs: Mapping[str, Interval], data: Mapping[str, Any]) -> str:
    names = [name for name in _SHOWN if name in scores["bbox"]]
    lines = [["%", *names, "mAR", "AR50", "AR75"]]
    for kind, found in scores.items():
        shown = [found[name] for name in (*names, "mAR", "AR50", "AR75")]
        lines.append(["boxes" if kind == "bbox" else "masks", *(f"{percent(value):.1f}" for value in shown)])
    sizes = [["%", "AP small", "medium", "large", "AR small", "medium", "large"]]
    for kind, found in scores.items():
        shown = [found[f"{what}_{size}"] for what in ("AP", "AR") for size in ("small", "medium", "large")]
        sizes.append(["boxes" if kind == "bbox" else "masks", *(f"{percent(value):.1f}" for value in shown)])
    spent = ", ".join(f"{name} {one.value:.1f}" for name, one in runs.items())
    return (
        f"{aligned(lines)}\n\n{aligned(sizes)}\n\n{data['images']} images, {data['instances']} instances, "
        f"{data['unmatched']} without a category; runs per image: {spent}"
    )


def _percent(value: float) -> float:
    return round(percent(value), PERCENT_DIGITS)


def _bounds(interval: Interval) -> list[float]:
    return [round(interval.low, _DIGITS), round(interval.high, _DIGITS)]
