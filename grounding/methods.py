"""Define methods: the stages a map goes through, the point rule, and the choice of a mask. One YAML file each.

A method from a new paper is one file under `configs/methods/` and, where it computes something new, one stage. A stage
or point rule may come from another distribution; see `grounding.registry`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from grounding import schema
from grounding.candidates.confidence import Confidence
from grounding.candidates.rule import CandidateRule
from grounding.candidates.verification import Verification
from grounding.errors import MethodError, RecordingError
from grounding.joint_spec import Readout
from grounding.maps.base import Part, Stage
from grounding.maps.compose import Compose
from grounding.maps.magnets import Magnets
from grounding.maps.text_sinks import TextSinks
from grounding.points import RULES, PointRule, SpreadPoints
from grounding.presets import read_shipped, shipped_names
from grounding.record_spec import RecordSpec, Reduce
from grounding.registry import Registry
from grounding.segmenters.mask_selection import MaskRule
from grounding.types import AttentionMaps, Heatmap, StageReport

STAGES: Registry[Stage] = Registry(
    "stage",
    "grounding.stages",
    {
        "stop-words": "grounding.maps.words:StopWords",
        "rows": "grounding.maps.words:Rows",
        "magnets": "grounding.maps.magnets:Magnets",
        "text-sinks": "grounding.maps.text_sinks:TextSinks",
        "head-noun": "grounding.maps.head_noun:HeadNoun",
        "spatial-bias": "grounding.maps.spatial_bias:SpatialBias",
        "combine": "grounding.maps.combine:Combine",
        "ensemble": "grounding.maps.ensemble:JoinModels",
        "layers-select": "grounding.maps.layers:LayerChoice",
        "layers-mean": "grounding.maps.layers:LayerMean",
        "flow": "grounding.maps.flow:Flow",
        "linear-layers": "grounding.maps.linear:LinearLayers",
        "unsigned": "grounding.maps.linear:Unsigned",
        "heads-mean": "grounding.maps.heads:HeadMean",
        "heads-mean-max": "grounding.maps.heads:HeadMeanMax",
        "heads-max-image": "grounding.maps.heads:HeadMaxImage",
        "heads-fixed": "grounding.maps.selection:HeadsFixed",
        "heads-entropy": "grounding.maps.selection:HeadsByEntropy",
        "sinks-columns": "grounding.maps.sinks:ColumnOutliers",
        "sinks-residual": "grounding.maps.sinks:ResidualSinks",
        "contrast-ratio": "grounding.maps.contrast:Ratio",
        "contrast-difference": "grounding.maps.contrast:Difference",
        "contrast-least-squares": "grounding.maps.contrast:LeastSquares",
        "contrast-words": "grounding.maps.contrast:OtherWords",
        "contrast-layer": "grounding.maps.contrast:LayerByContrast",
        "logit-lens": "grounding.maps.logits:LogitLens",
        "refine-cut": "grounding.maps.refine:BiasedCut",
        "refine-propagate": "grounding.maps.refine:Propagate",
        "smooth": "grounding.maps.smooth:Smooth",
        "smooth-ranks": "grounding.maps.smooth:SmoothRanks",
    },
    base="grounding.maps.base:Stage",
    members=("name",),
)
"""Stages by their name in a method file; entry-point group `grounding.stages`."""

_SPENT: dict[Part, tuple[str, str]] = {
    "steps": ("ways to join steps", "single steps are gone by then"),
    "layers": ("ways to join layers", "single layers are gone by then"),
    "heads": ("ways to join heads", "single heads are gone by then"),
    "words": ("ways to join rows", "the rows are mixed into one by then"),
    "background": ("contrasts", "the background is consumed there, and both sides must have been treated alike"),
}
"""Per part what messages call stages that spend it, and why a stage that requires it must come before them."""


@dataclass(frozen=True)
class Method:
    """From attention to a mask, as one file describes it.

    Attributes:
        name: the file's name without its ending.
        description: one sentence on what the method does.
        source: the paper, and what in the file is not found there but chosen by this project.
        prompt: what the model is asked, with `{expression}` in it; None is the model family's own prompt.
        stages: the steps on the attention maps, in order.
        readout: what maps are read from, for diffusion transformers.
        compose: from cells to the image.
        points: the point rule.
        mask: how one mask is chosen among those of one prompt, and cleaned.
        candidates: where masks come from, and how one of them is chosen where they come from several prompts.
        confidence: how sure an answer is, fitted on annotated pictures; None where nobody did.
        verification: how a region is shown again and what is asked, where `candidates` says that it is.
    """

    name: str
    description: str
    source: str
    stages: tuple[Stage, ...]
    prompt: str | None = None
    readout: Readout = field(default_factory=Readout)
    compose: Compose = field(default_factory=Compose)
    points: PointRule = field(default_factory=SpreadPoints)
    mask: MaskRule = field(default_factory=MaskRule)
    candidates: CandidateRule = field(default_factory=CandidateRule)
    confidence: Confidence | None = None
    verification: Verification = field(default_factory=Verification)

    def __post_init__(self) -> None:
        if self.prompt is not None and "{expression}" not in self.prompt:
            raise MethodError(f"method {self.name!r}: the prompt {self.prompt!r} has no {{expression}} in it")
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise MethodError(f"method {self.name!r}: stage {twice[0]!r} occurs twice; each may occur once")
        if any(isinstance(each, TextSinks) and each.handling == "redirect" for each in self.stages) and not any(
            isinstance(each, Magnets) and each.needs(None).magnets for each in self.stages
        ):
            raise MethodError(
                f"method {self.name!r}: sinks can only be redirected onto magnets: add the stage 'magnets', or handle "
                "sinks by 'mask'"
            )
        for index, earlier in enumerate(self.stages):
            for later in self.stages[index + 1 :]:
                self._check_order(earlier, later)
        signed = False
        for stage in self.stages:
            if signed and not stage.takes_signed:
                raise MethodError(
                    f"method {self.name!r}: stage {stage.name!r} needs weights >= 0, and those of linear attention are "
                    "signed: put the stage 'unsigned' before it, or leave it out"
                )
            signed = signed if stage.leaves_signed is None else stage.leaves_signed

    def _check_order(self, earlier: Stage, later: Stage) -> None:
        """Refuse a stage whose required parts an earlier one has spent.

        Raises:
            MethodError: the two are in the wrong order, or cannot be combined at all.
        """
        lost = [part for part in _SPENT if part in earlier.spends & later.requires]
        for part in lost:
            if part in later.spends & earlier.requires:
                raise MethodError(
                    f"method {self.name!r} has two {_SPENT[part][0]}, {earlier.name} and {later.name}: keep one"
                )
        if lost and earlier.first:
            raise MethodError(
                f"method {self.name!r} has the stages {earlier.name!r}, which comes first, and {later.name!r}, which "
                f"must come before it: {_SPENT[lost[0]][1]}; leave one out"
            )
        if lost or later.first or earlier.name in later.before:
            why = _SPENT[lost[0]][1] if lost else f"stage {later.name!r} declares that order"
            raise MethodError(f"method {self.name!r}: stage {later.name!r} must come before {earlier.name!r}: {why}")

    @property
    def background_prompt(self) -> str | None:
        """The generic prompt whose maps the method contrasts with; None where it has no contrast."""
        return self.record_spec().background_prompt

    def record_spec(self, layer_count: int | None = None) -> RecordSpec:
        """What must be recorded for the method: the union of what its stages need.

        Args:
            layer_count: the model's decoder layers; without it, layers that stages select by share are not resolved.

        Returns:
            The spec. Its layers are those that any stage names, all where none does. Heads are averaged while the model
            runs where the stage that averages them needs no more and no stage before it reads single heads.

        Raises:
            MethodError: a stage names layers that the model does not have, or two stages name different prompts.
        """
        wanted = RecordSpec(readout=None if self.readout == Readout() else self.readout)
        layers: set[int] = set()
        reduce: Reduce = "none"
        heads_read = False
        for stage in self.stages:
            try:
                need = stage.needs(layer_count)
                wanted |= need
            except (MethodError, RecordingError, ValueError) as wrong:
                raise MethodError(f"method {self.name!r}: {wrong}") from wrong
            layers.update(need.layers or ())
            if need.reduce == "heads" and not heads_read:
                reduce = "heads"
            heads_read = heads_read or "heads" in stage.requires
        return replace(wanted, layers=tuple(sorted(layers)) or None, reduce=reduce)

    def to_yaml(self) -> str:
        """The method as the text of a method file; `parse_method` reads it back to an equal one."""
        data: dict[str, Any] = {
            "description": self.description,
            "source": self.source,
            "prompt": self.prompt,
            "readout": schema.plain(self.readout),
            "stages": [{"stage": stage.name, **schema.plain(stage)} for stage in self.stages],
            "compose": schema.plain(self.compose),
            "points": {"rule": self.points.name, **schema.plain(self.points)},
            "mask": schema.plain(self.mask),
            "candidates": schema.plain(self.candidates),
            "confidence": schema.plain(self.confidence),
            "verification": schema.plain(self.verification),
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
        MethodError: the text is not YAML, or a key, stage, rule or value in it is wrong.
    """
    data = schema.yaml_mapping(text, where)
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
    points, confidence = data.get("points"), data.get("confidence")
    return Method(
        name=name,
        description=data["description"].strip(),
        source=data["source"].strip(),
        prompt=data.get("prompt"),
        stages=tuple(STAGES.build(entry, "stage", where) for entry in data["stages"]),
        readout=schema.build(Readout, data.get("readout"), f"{where}: readout"),
        compose=schema.build(Compose, data.get("compose"), f"{where}: compose"),
        points=SpreadPoints() if points is None else RULES.build(points, "rule", where),
        mask=schema.build(MaskRule, data.get("mask"), f"{where}: mask"),
        candidates=schema.build(CandidateRule, data.get("candidates"), f"{where}: candidates"),
        confidence=None if confidence is None else schema.build(Confidence, confidence, f"{where}: confidence"),
        verification=schema.build(Verification, data.get("verification"), f"{where}: verification"),
    )


def without(method: Method, stage: str) -> Method:
    """Leave one stage out, for an ablation; an axis that it would have averaged is averaged when the map is composed.

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


def run_stages(
    method: Method, maps: AttentionMaps, watch: Callable[[AttentionMaps, StageReport], None] | None = None
) -> Heatmap:
    """Take recorded maps through a method's stages to a heat map.

    Args:
        method: the method.
        maps: recorded attention, with `background` where the method has a contrast.
        watch: called after every stage with its maps and its report; see `grounding.explanation`.

    Returns:
        The heat map, with one report a stage.

    Raises:
        MethodError: the maps lack what a stage needs.
        ExpressionError: none of the words is of a kind that the method reads.
    """
    reports = []
    for stage in method.stages:
        maps, report = stage(maps)
        reports.append(report)
        if watch is not None:
            watch(maps, report)
    return replace(method.compose(maps), stages=tuple(reports))
