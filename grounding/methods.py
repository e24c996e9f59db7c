"""A method: which stages a map goes through, how points are chosen, how a mask is picked. One YAML file each.

A method is data. Adding one from a new paper is a file under `configs/methods/` and, at most, one new stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from grounding import schema
from grounding.errors import MethodError
from grounding.maps.base import Stage
from grounding.maps.compose import Compose
from grounding.maps.contrast import Difference, Ratio
from grounding.maps.heads import HeadMaxImage, HeadMean, HeadMeanMax
from grounding.maps.layers import LayerChoice, LayerMean
from grounding.maps.selection import HeadsByEntropy, HeadsFixed
from grounding.maps.sinks import ColumnOutliers, ResidualSinks
from grounding.maps.smooth import Smooth
from grounding.maps.words import Rows, StopWords
from grounding.points import RULES, PointRule, SpreadPoints
from grounding.presets import read_shipped, shipped_names
from grounding.types import AttentionMaps, Heatmap, RecordSpec

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        StopWords, Rows, LayerChoice, LayerMean, HeadMean, HeadMeanMax, HeadMaxImage, HeadsFixed, HeadsByEntropy,
        ColumnOutliers, ResidualSinks, Ratio, Difference, Smooth,
    )
}  # fmt: skip
"""Every stage by its name in a method file."""

_CONTRAST = (Ratio, Difference)
_HEADS = (HeadMean, HeadMeanMax, HeadMaxImage, HeadsFixed, HeadsByEntropy)
_PICKED_HEADS = (HeadsFixed, HeadsByEntropy)

_ORDER: tuple[tuple[tuple[type[Stage], ...], tuple[type[Stage], ...], str], ...] = (
    ((StopWords,), (Rows,), "the rows are mixed into one by then"),
    ((LayerChoice, ResidualSinks), (LayerMean, *_PICKED_HEADS), "single layers are gone by then"),
    ((HeadMeanMax, HeadMaxImage, *_PICKED_HEADS), (LayerMean,), "heads are weighed layer by layer"),
    (
        (StopWords, Rows, LayerChoice, LayerMean, ColumnOutliers, ResidualSinks, *_HEADS),
        _CONTRAST,
        "the background is consumed there, and both sides must have been treated alike",
    ),
)


@dataclass(frozen=True)
class MaskChoice:
    """How one mask is chosen among a segmenter's candidates.

    Attributes:
        choice: by the segmenter's own IoU estimate, by agreement with the map, or by both.
        cascade: feed the first masks and a box back in further calls, as PerSAM does.
        measure: how agreement is measured; see `grounding.segmenters.mask_selection.agreement`.
    """

    choice: Literal["iou", "agreement", "both"] = "both"
    cascade: bool = False
    measure: Literal["pearson", "soft_iou", "consistency"] = "pearson"


@dataclass(frozen=True)
class Method:
    """From attention to a mask, as one file describes it.

    Attributes:
        name: the file's name without its ending.
        description: one sentence for people.
        source: the paper and what in it is not found there and is ours.
        prompt: what the model is asked, with `{expression}` in it; None leaves it to the model's family.
        stages: the steps on the attention maps, in order.
        compose: from cells to the image.
        points: the point rule.
        mask: the mask choice.
    """

    name: str
    description: str
    source: str
    stages: tuple[Stage, ...]
    prompt: str | None = None
    compose: Compose = field(default_factory=Compose)
    points: PointRule = field(default_factory=SpreadPoints)
    mask: MaskChoice = field(default_factory=MaskChoice)

    def __post_init__(self) -> None:
        if self.prompt is not None and "{expression}" not in self.prompt:
            raise MethodError(f"method {self.name!r}: the prompt {self.prompt!r} has no {{expression}} in it")
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise MethodError(f"method {self.name!r}: stage {twice[0]!r} occurs twice; each may occur once")
        for kinds, what in ((_HEADS, "ways to join heads"), (_CONTRAST, "contrasts")):
            several = [stage.name for stage in self.stages if isinstance(stage, kinds)]
            if len(several) > 1:
                raise MethodError(f"method {self.name!r} has two {what}, {' and '.join(several)}: keep one")
        for index, later in enumerate(self.stages):
            for stage in self.stages[index + 1 :]:
                for first, second, why in _ORDER:
                    if isinstance(stage, first) and isinstance(later, second):
                        raise MethodError(
                            f"method {self.name!r}: stage {stage.name!r} must come before {later.name!r}: {why}"
                        )

    @property
    def background_prompt(self) -> str | None:
        """The generic prompt whose maps the contrast stage needs; None where there is no contrast."""
        return next((stage.prompt for stage in self.stages if isinstance(stage, _CONTRAST)), None)

    def record_spec(self, layer_count: int | None = None) -> RecordSpec:
        """What must be recorded.

        Args:
            layer_count: the model's decoder layers; without it only layers that the file names by number are known.

        Raises:
            MethodError: the method names layers that the model does not have.
        """
        layers: tuple[int, ...] | None = None
        statistics: list[str] = []
        for stage in self.stages:
            if isinstance(stage, LayerChoice) and layer_count is not None:
                layers = stage.resolve(layer_count)
            if isinstance(stage, HeadsFixed):
                named = tuple(sorted({layer for layer, _ in stage.pairs}))
                if layer_count is not None and named[-1] >= layer_count:
                    raise MethodError(
                        f"method {self.name!r} names heads in layer {named[-1]}, but the model has {layer_count} "
                        "layers: the method belongs to another model"
                    )
                layers = named if layers is None else tuple(layer for layer in layers if layer in named)
            if isinstance(stage, HeadMeanMax):
                statistics.append("max_all")
            if isinstance(stage, HeadMaxImage):
                statistics.append("max_image")
        return RecordSpec(
            layers=layers,
            head_statistics=tuple(statistics),
            residual_sinks=any(isinstance(stage, ResidualSinks) for stage in self.stages),
            reduce="heads" if any(isinstance(stage, HeadMean) for stage in self.stages) else "none",
            background_prompt=self.background_prompt,
        )

    def to_yaml(self) -> str:
        """The method as the text of a method file; `parse_method` reads it back to an equal one."""
        data: dict[str, Any] = {
            "description": self.description,
            "source": self.source,
            "prompt": self.prompt,
            "stages": [{"stage": stage.name, **schema.plain(stage)} for stage in self.stages],
            "compose": schema.plain(self.compose),
            "points": {"rule": self.points.name, **schema.plain(self.points)},
            "mask": schema.plain(self.mask),
        }
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def method_names() -> tuple[str, ...]:
    """Names of the methods that ship with the library, sorted."""
    return shipped_names("methods")


def load_method(name_or_path: str | Path) -> Method:
    """Read a method.

    Args:
        name_or_path: a shipped method's name, or the path of a YAML file (it ends in .yaml or .yml, or holds a slash).

    Returns:
        The method.

    Raises:
        MethodError: the method is unknown, or its file is wrong; the message names the known ones.
    """
    return read_shipped(name_or_path, ("methods",), "method", parse_method)


def parse_method(text: str, name: str, where: str) -> Method:
    """Read a method from the text of a YAML file.

    Args:
        text: the file's text.
        name: the method's name.
        where: what messages call the file.

    Raises:
        MethodError: it is no YAML, or a key, stage, rule or value in it is wrong.
    """
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        raise MethodError(f"{where} is not YAML: {' '.join(str(wrong).split())}") from wrong
    data = schema.as_mapping(loaded, where)
    known = [field.name for field in dataclasses.fields(Method) if field.name != "name"]
    schema.check_keys(data, known, where)
    missing = [key for key in ("description", "source", "stages") if key not in data]
    if missing:
        raise MethodError(f"{where}: {' and '.join(missing)} must be given")
    for key in ("description", "source", "prompt"):
        if not isinstance(data.get(key), str) and not (key == "prompt" and data.get(key) is None):
            raise MethodError(f"{where}: {key} must be text, got {data.get(key)!r}")
    if not isinstance(data["stages"], list):
        raise MethodError(f"{where}: stages must be a list, each entry starting with 'stage: name'")
    points = data.get("points")
    return Method(
        name=name,
        description=data["description"].strip(),
        source=data["source"].strip(),
        prompt=data.get("prompt"),
        stages=tuple(_named(entry, "stage", STAGES, where, "stage") for entry in data["stages"]),
        compose=schema.build(Compose, data.get("compose"), f"{where}: compose"),
        points=SpreadPoints() if points is None else _named(points, "rule", RULES, where, "points rule"),
        mask=schema.build(MaskChoice, data.get("mask"), f"{where}: mask"),
    )


def without(method: Method, stage: str) -> Method:
    """The method with one stage left out, for an ablation; what it left undone is averaged when the map is composed.

    Args:
        method: the whole method.
        stage: the stage's name as in the file.

    Returns:
        A method named `<name>-without-<stage>`.

    Raises:
        MethodError: the method has no such stage; the message names those it has.
    """
    names = [each.name for each in method.stages]
    if stage not in names:
        raise MethodError(f"method {method.name!r} has no stage {stage!r}: it has {', '.join(names) or 'none'}")
    left = tuple(each for each in method.stages if each.name != stage)
    return replace(method, name=f"{method.name}-without-{stage}", stages=left)


def run_stages(method: Method, maps: AttentionMaps) -> Heatmap:
    """Take recorded maps through a method's stages to a heat map.

    Args:
        method: the method.
        maps: recorded attention, with `background` where the method contrasts.

    Returns:
        The heat map, with one report a stage.

    Raises:
        MethodError: the maps lack what a stage needs.
        ExpressionError: the words hold nothing that the method reads.
    """
    reports = []
    for stage in method.stages:
        maps, report = stage(maps)
        reports.append(report)
    return replace(method.compose(maps), stages=tuple(reports))


def _named(entry: object, key: str, known: Mapping[str, type[Any]], where: str, what: str) -> Any:
    """Build the dataclass that an entry names, from the entry's other keys."""
    mapping = dict(schema.as_mapping(entry, f"{where}: {what}"))
    name = mapping.pop(key, None)
    if name not in known:
        raise MethodError(f"{where}: {what} {name!r} is unknown: the known ones are {', '.join(known)}")
    return schema.build(known[name], mapping, f"{where}: {what} {name!r}")
