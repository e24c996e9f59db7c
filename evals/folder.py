"""Read a run's folder for reports: manifest, scores and samples, whichever of them are there.

The folder is one of `evals.runs`, finished or not, or one assembled by hand from `scores.json` (the output of an `eval`
command with `--json`), `captions.jsonl` and `details.jsonl` (written by `grounding eval chair --samples`). Lines of one
id are merged; scores or lines alone are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evals.chair.lexicon import Lexicon
from evals.chair.spans import plain_lexicon
from evals.inputs import read_json
from evals.runs import DETAILS, MANIFEST, SAMPLES, SCORES, RunFolder
from grounding.errors import EvalDataError
from grounding.files import read_jsonl, user_path

LINES = ("captions.jsonl", SAMPLES, DETAILS)  # of a field in several files the last counts
_IDS = ("id", "sample_id", "question_id", "image_id")
_TEXTS = ("text", "caption", "answer", "response")
_IMAGES = ("image", "image_path", "file_name")


@dataclass(frozen=True)
class SampleLine:
    """One line of a samples file.

    Attributes:
        id: the sample's.
        image: where its picture should be; None where the line names none.
        question: the prompt.
        text: the answer; empty where it failed.
        finished: whether the text ended before the length limit; None where unknown.
        error: why there is no text; None where there is one.
        fields: all fields of its lines, what scoring counted included.
    """

    id: str
    image: Path | None
    question: str
    text: str
    finished: bool | None
    error: str | None
    fields: Mapping[str, Any] = field(repr=False)

    def names(self, key: str) -> tuple[str, ...]:
        """The strings of a list field, `hallucinated` for instance; empty where it is missing."""
        found = self.fields.get(key)
        return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()

    @property
    def truth(self) -> frozenset[str] | None:
        """The objects that its image shows; None where the lines have none."""
        if not {"mentions", "hallucinated", "missed"} <= set(self.fields):
            return None
        return frozenset(self.names("missed")) | (set(self.names("mentions")) - set(self.names("hallucinated")))


@dataclass(frozen=True)
class Folder:
    """One run.

    Attributes:
        path: the folder.
        manifest: the content of `manifest.json`; empty without one.
        scores: the content of `scores.json`; empty without one.
        samples: one per id.
    """

    path: Path
    manifest: Mapping[str, Any]
    scores: Mapping[str, Any]
    samples: tuple[SampleLine, ...]

    def said(self, *names: str) -> Any:
        """The first of several entries in the manifest, its `config` or the scores; None where all are missing."""
        config = self.manifest.get("config")
        for place in (self.manifest, config if isinstance(config, Mapping) else {}, self.scores):
            for name in names:
                if place.get(name) is not None:
                    return place[name]
        return None

    @cached_property
    def task(self) -> str:
        """The task's name, `chair` for instance; empty where unknown."""
        return _name(self.manifest.get("task")) or _name(self.scores.get("task")) or ""

    @cached_property
    def model(self) -> str | None:
        """The model's name; None where unknown."""
        return _name(self.said("model"))

    @cached_property
    def steering(self) -> str | None:
        """The steering method's name; None without steering."""
        return _name(self.said("steering", "steer"))

    @cached_property
    def pipeline(self) -> str | None:
        """The text pipeline that scored the captions; None where unknown."""
        variant = self.scores.get("variant")
        return _name(variant.get("pipeline")) if isinstance(variant, Mapping) else None

    @cached_property
    def counted(self) -> Lexicon:
        """The words that the lines say were counted, and the own names of all their objects."""
        keys = ("mentions", "hallucinated", "flagged", "missed")
        words: dict[str, set[str]] = {}
        for one in self.samples:
            named = one.fields.get("named")
            for name, found in named.items() if isinstance(named, dict) else ():
                words.setdefault(str(name), set()).update(map(str, found if isinstance(found, list) else ()))
        classes = sorted({name for one in self.samples for key in keys for name in one.names(key)})
        return plain_lexicon(classes, {name: sorted(found) for name, found in sorted(words.items())})

    @cached_property
    def steering_text(self) -> str | None:
        """The text of the steering file that the run used; None where unknown."""
        found = self.manifest.get("steering")
        text = found.get("yaml") if isinstance(found, Mapping) else None
        return text if isinstance(text, str) and text.strip() else None


def read_folder(path: str | Path) -> Folder:
    """Read a run's folder.

    Raises:
        EvalDataError: there is no such folder, it holds neither scores nor samples, or a file in it is wrong.
    """
    folder = user_path(path)
    if not folder.is_dir():
        raise EvalDataError(f"there is no folder {folder}: give one that holds {SCORES} or {SAMPLES}")
    manifest, scores, rows = _object(folder / MANIFEST), _object(folder / SCORES), _lines(folder)
    if not scores and not rows:
        raise EvalDataError(f"{folder} holds neither {SCORES} nor {SAMPLES}: give the folder of a run")
    return Folder(folder, manifest, scores, tuple(_sample(id, row, folder, manifest) for id, row in rows.items()))


def _lines(folder: Path) -> dict[str, dict[str, Any]]:
    """The merged lines of each sample, by id."""
    found: dict[str, dict[str, Any]] = {}
    for file in (*(folder / name for name in LINES), *RunFolder(folder).parts()):
        for number, row in enumerate(read_jsonl(file), 1):
            id = _first(row, _IDS) if isinstance(row, dict) else None
            if id is None:
                raise EvalDataError(f"line {number} of {file} is no object with an id: mend or remove it")
            fields = row.get("fields")
            found.setdefault(str(id), {}).update({**(fields if isinstance(fields, dict) else {}), **row})
    return found


def _object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found = read_json(path, path.stem)
    if not isinstance(found, dict):
        raise EvalDataError(f"{path} holds a {type(found).__name__}, expected an object with named fields: mend it")
    return found


def _sample(id: str, row: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any]) -> SampleLine:
    image, finished, error = _first(row, _IMAGES), row.get("finished"), row.get("error")
    return SampleLine(
        id=id,
        image=_found(str(image), folder, manifest.get("image_root")) if image is not None else None,
        question=str(_first(row, ("question", "prompt", "query"), "")),
        text=str(_first(row, _TEXTS, "")),
        finished=finished if isinstance(finished, bool) else None,
        error=str(error) if error else None,
        fields=row,
    )


def _found(image: str, folder: Path, root: Any) -> Path:
    """The picture's path: in the folder, the run's image folder or the current folder; else in the folder."""
    places = [folder / image, *([Path(root) / image] if isinstance(root, str) else []), Path(image)]
    return next((place for place in places if place.is_file()), places[0])


def _first(row: Mapping[str, Any], names: tuple[str, ...], default: Any = None) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), default)


def _name(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("name")
    return str(value) if value else None
