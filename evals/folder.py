"""What a run left in its folder, read for looking at it: manifest, samples, scores and diagnostics, each where it is.

The folder of a run (see `evals.runs`), finished or not; or one put together by hand of `scores.json` (what an `eval`
command prints with `--json`), `captions.jsonl` and `details.jsonl` (what `grounding eval chair --samples` writes).
Lines of one id are put together; scores or lines alone are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evals.inputs import read_json
from evals.runs import DETAILS, MANIFEST, SAMPLES, SCORES
from grounding.errors import EvalDataError
from grounding.files import read_jsonl

LINES = ("captions.jsonl", SAMPLES, DETAILS)  # what a later file says of a sample wins
_IDS = ("id", "sample_id", "question_id", "image_id")
_TEXTS = ("text", "caption", "answer", "response")
_IMAGES = ("image", "image_path", "file_name")


@dataclass(frozen=True)
class Sample:
    """One line of a samples file.

    Attributes:
        id: what it is called.
        image: where its picture should be; None where the line names none.
        question: what was asked.
        text: what the model wrote; empty where it failed.
        finished: whether the text ended before its limit; None where it is not told.
        error: why there is no text.
        fields: everything that was said of it, with what scoring counted.
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
        """The objects that its image shows; None where the line does not say."""
        if not {"mentions", "hallucinated", "missed"} <= set(self.fields):
            return None
        return frozenset(self.names("missed")) | (set(self.names("mentions")) - set(self.names("hallucinated")))


@dataclass(frozen=True)
class Folder:
    """One run.

    Attributes:
        path: the folder.
        manifest: how it was made; empty where that is not told.
        scores: its figures; empty where there are none.
        samples: its lines.
    """

    path: Path
    manifest: Mapping[str, Any]
    scores: Mapping[str, Any]
    samples: tuple[Sample, ...]

    def said(self, *names: str) -> Any:
        """The first of some entries that the manifest, its `config` or the scores have; None without any."""
        config = self.manifest.get("config")
        for place in (self.manifest, config if isinstance(config, Mapping) else {}, self.scores):
            for name in names:
                if place.get(name) is not None:
                    return place[name]
        return None

    @cached_property
    def task(self) -> str:
        """What was measured, `chair` for instance; empty where nothing says so."""
        return _name(self.manifest.get("task")) or _name(self.scores.get("task")) or ""

    @cached_property
    def model(self) -> str | None:
        """Which model ran."""
        return _name(self.said("model"))

    @cached_property
    def steering(self) -> str | None:
        """How it was steered; None for not at all."""
        return _name(self.said("steering", "steer"))

    @cached_property
    def steering_text(self) -> str | None:
        """The steering file as the run read it; None where it is not told."""
        found = self.manifest.get("steering")
        text = found.get("yaml") if isinstance(found, Mapping) else None
        return text if isinstance(text, str) and text.strip() else None


def read_folder(path: str | Path) -> Folder:
    """Read a run's folder.

    Raises:
        EvalDataError: there is no such folder, it holds neither scores nor samples, or a file in it is broken.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise EvalDataError(f"there is no folder {folder}: give one that holds {SCORES} or {SAMPLES}")
    manifest, scores, rows = _object(folder / MANIFEST), _object(folder / SCORES), _lines(folder)
    if not scores and not rows:
        raise EvalDataError(f"{folder} holds neither {SCORES} nor {SAMPLES}: give the folder of a run")
    return Folder(folder, manifest, scores, tuple(_sample(id, row, folder, manifest) for id, row in rows.items()))


def _lines(folder: Path) -> dict[str, dict[str, Any]]:
    """What the files say of each sample, by its id."""
    found: dict[str, dict[str, Any]] = {}
    for file in (*(folder / name for name in LINES), *sorted(folder.glob("samples.*-of-*.jsonl"))):
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


def _sample(id: str, row: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any]) -> Sample:
    image, finished, error = _first(row, _IMAGES), row.get("finished"), row.get("error")
    return Sample(
        id=id,
        image=_found(str(image), folder, manifest.get("image_root")) if image is not None else None,
        question=str(_first(row, ("question", "prompt", "query"), "")),
        text=str(_first(row, _TEXTS, "")),
        finished=finished if isinstance(finished, bool) else None,
        error=str(error) if error else None,
        fields=row,
    )


def _found(image: str, folder: Path, root: Any) -> Path:
    """Where the picture is, seen from the folder, from the run's image folder or from here; else from the folder."""
    places = [folder / image, *([Path(root) / image] if isinstance(root, str) else []), Path(image)]
    return next((place for place in places if place.is_file()), places[0])


def _first(row: Mapping[str, Any], names: tuple[str, ...], default: Any = None) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), default)


def _name(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("name")
    return str(value) if value else None
