"""Results as the JSON lines of `results.jsonl`.

A line holds nothing that differs between two runs of one configuration, such as times or host names, so equal runs
leave equal bytes. Numbers are rounded far below their accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grounding.candidates.base import RankedCandidate
from grounding.errors import GroundingError
from grounding.io import coco_result
from grounding.types import PointPrompts, Segment
from pipelines.manifest import ManifestItem, work_key
from pipelines.open_ended_result import Instance, OpenEndedResult
from pipelines.provenance import RunConfig
from pipelines.results import Caption, NounMentions, NounSupport, ReferringResult

Record = dict[str, Any]
"""One line of `results.jsonl`, as JSON holds it."""


def result_record(item: ManifestItem, config: RunConfig, result: ReferringResult, files: Sequence[str]) -> Record:
    """Make the line of an item that succeeded.

    Args:
        item: image and expression.
        config: of the run.
        result: of the item.
        files: names of the written files, relative to the folder.
    """
    points = result.points
    return {
        **_head(item, config),
        "image_size": list(result.map.image_size),
        "segments": [_segment(segment) for segment in result.segments],
        "confidence": None if result.confidence is None else round(result.confidence, 6),
        "ranking": [_ranked(one) for one in result.ranking],
        **({} if result.verified is None else {"verified": [round(share, 6) for share in result.verified]}),
        "points": {
            **_points(points),
            "weight": [round(float(weight), 6) for weight in points.weight],
            "box_xyxy": None if points.box_xyxy is None else [round(side, 2) for side in points.box_xyxy],
        },
        "stages": [
            {"stage": report.stage, "removed": round(float(report.removed), 6), "detail": report.detail}
            for report in result.stages
        ],
        **({"notes": list(result.notes)} if result.notes else {}),
        "files": list(files),
        "error": None,
    }


def open_ended_record(item: ManifestItem, config: RunConfig, result: OpenEndedResult, files: Sequence[str]) -> Record:
    """Make the line of an image whose objects were looked for.

    Args:
        item: the image.
        config: of the run.
        result: of the item.
        files: names of the written files, relative to the folder.
    """
    told = result.explained()
    return {
        **_head(item, config),
        "image_size": list(result.image.size),
        "segments": [_instance(one, result.in_vocabulary) for one in result.instances],
        **{name: told[name] for name in ("answers", "names", "runs")},
        **({"notes": list(result.notes)} if result.notes else {}),
        "files": list(files),
        "error": None,
    }


def _instance(instance: Instance, in_vocabulary: bool) -> Record:
    return {
        "name": instance.name,
        "words": instance.words,
        **({"category_id": instance.category_id} if in_vocabulary else {}),
        "score": round(instance.score, 6),
        **_segment(instance.segment),
        "points": _points(instance.segment.points),
        "view": instance.view,
        "question": instance.question,
        "round": instance.round,
    }


def error_record(item: ManifestItem, config: RunConfig, error: GroundingError) -> Record:
    """Make the line of an item that failed."""
    return {**_head(item, config), "error": error_json(error)}


def error_json(error: GroundingError) -> Record:
    """An error's class and its sentence."""
    return {"kind": type(error).__name__, "sentence": str(error)}


def caption_record(caption: Caption) -> Record:
    """One text of a description."""
    return {
        "text": caption.text,
        "finished": caption.finished,
        "repeated": caption.repeated,
        "tokens": caption.tokens,
        "threshold": caption.threshold,
        "unsupported": [noun.text for noun in caption.unsupported],
        "by_noun": [_mentions(noun) for noun in caption.by_noun],
        "nouns": [_noun(noun) for noun in caption.nouns],
    }


def speed_record(caption: Caption) -> Record:
    """How fast a text was generated; printed only, never part of a line on the disk."""
    rate = caption.tokens_per_second
    return {
        "seconds": None if caption.seconds is None else round(caption.seconds, 4),
        "tokens_per_second": None if rate is None else round(rate, 2),
    }


def image_head(item: ManifestItem, config: RunConfig) -> Record:
    """The beginning of the line of an image alone, without words."""
    return _head(item, config)


def outdated(records: Mapping[str, Record], present: Sequence[Record]) -> frozenset[str]:
    """The keys of lines that present ones stand in for.

    A line of the same configuration, origin, image and words that is none of the present ones is out of date, because
    the image's content or the manifest has changed since.
    """
    said = {_said(record) for record in present}
    keys = {record["key"] for record in present}
    return frozenset(key for key, record in records.items() if key not in keys and _said(record) in said)


def _said(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("config", "origin", "image", "expression"))


def work_of(record: Record) -> str:
    """The `ManifestItem.work` that a line of `grounding segment` or `grounding discover` is the result of."""
    return work_key(record["image"], record["image_hash"], record.get("expression", ""), record["config"])


def for_item(record: Record, item: ManifestItem, config: RunConfig) -> Record:
    """The result of a piece of work as the line of an item: with the item's own fields."""
    result = {name: value for name, value in record.items() if name not in _HEAD}
    return {**_head(item, config), **result}


_HEAD = ("key", "image", "image_hash", "expression", "config", "origin", "manifest")


def _head(item: ManifestItem, config: RunConfig) -> Record:
    values = (item.key(config.hash), item.image, item.image_hash, item.expression, config.hash, item.origin)
    head: Record = dict(zip(_HEAD, values, strict=False))
    if not item.expression:  # of an image alone
        del head["expression"]
    return {**head, "manifest": dict(item.extra)} if item.extra else head


def _segment(segment: Segment) -> Record:
    entry = coco_result(segment, 0)
    return {
        "segmentation": entry["segmentation"],
        "bbox": entry["bbox"],
        "area": int(segment.mask.sum()),
        "estimated_iou": round(float(segment.score), 6),
        "agreement": None if segment.agreement is None else round(float(segment.agreement), 6),
        "confidence": None if segment.confidence is None else round(float(segment.confidence), 6),
    }


def _ranked(one: RankedCandidate) -> Record:
    box = one.candidate.packed.box_xyxy
    return {
        "origin": one.candidate.origin,
        "box_xyxy": [round(side, 2) for side in box],
        "area": one.candidate.packed.area,
        "estimated_iou": round(one.candidate.score, 6),
        "agreement": round(one.features["agreement"], 6),
        "place": None if one.place is None else round(one.place, 6),
        "score": round(one.score, 6),
        "why": one.why,
    }


def _points(points: PointPrompts) -> Record:
    return {"xy": [[round(float(x), 2), round(float(y), 2)] for x, y in points.xy], "label": points.label.tolist()}


def _mentions(noun: NounMentions) -> Record:
    supports = [round(one.support.value, 6) for one in noun.mentions]
    return {"noun": noun.noun, "count": len(noun.mentions), "support": supports}


def _noun(noun: NounSupport) -> Record:
    parts = noun.support
    mask = None
    if noun.segment is not None:
        entry = coco_result(noun.segment, 0)
        mask = {
            "segmentation": entry["segmentation"],
            "bbox": entry["bbox"],
            "estimated_iou": round(float(noun.segment.score), 6),
        }
    return {
        "text": noun.text,
        "noun": noun.noun,
        "span": list(noun.span),
        "supported": noun.supported,
        "support": round(parts.value, 6),
        "parts": {
            "gaze": round(parts.image_mass_ratio, 6),
            "sharpness": round(parts.sharpness, 6),
            "agreement": None if parts.agreement is None else round(parts.agreement, 6),
        },
        "points": None if noun.points is None else _points(noun.points),
        "mask": mask,
    }
