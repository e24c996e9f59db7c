"""`grounding eval photos`: how a model points, answers and describes on photos that a starter was never trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import ManifestError
from pipelines.options import ModelOptions

PARTS = ("nouns", "expressions", "pope", "captions")


@dataclass(frozen=True, kw_only=True)
class EvalPhotosCommand(ModelOptions):
    """Measure on the test photos of a folder: nouns, human expressions, POPE's questions and captions.

    Nouns: for every annotated class of at least 2 % of its photo, whether the best point lies on it, and the mask's
    IoU; beside it the picture's centre, the map of another class, and every head's map taken from another photo.
    Expressions: whether the best point lies in the box; beside it the head noun alone and the centre. POPE: accuracy,
    F1 and share of yes for each split. Captions: CHAIR. Intervals are 95 % percentile bootstraps, resampled by photo.
    Of the photos in the folder that this was written for, at least 94 % show a person.

    Attributes:
        data: folder of photos; see `grounding.starter.photo.data`.
        synonyms: CHAIR's list of synonyms, one class a line; captions are not scored without it.
        parts: which of nouns, expressions, pope and captions to measure.
        ablate: also measure nouns with each part of the method switched off.
        limit: at most so many questions of each part; all where 0.
        out: folder for scores.json and scores.md.
        json: print one JSON object on stdout instead of the tables.
    """

    data: Path
    model: str = "starter-photo"
    synonyms: Path | None = None
    parts: tuple[str, ...] = PARTS
    ablate: bool = False
    limit: int = 0
    out: Path = Path("out/photos")
    json: bool = False

    def run(self) -> int:
        """Measure, print, and write scores.json and scores.md."""
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ManifestError(f"--parts {unknown[0]} was given, expected some of {', '.join(PARTS)}")
        if "captions" in self.parts and self.synonyms is None:
            raise ManifestError("captions are scored with CHAIR's list: give --synonyms FILE, or leave captions out")
        from evals.photos.measure import Plan, measure, report
        from grounding.files import write_json, write_text
        from grounding.starter.photo.data import read_photos

        photos = read_photos(self.data)
        config = self.config()
        pipe = self.load()
        with progress_bar(stderr()) as progress:
            task = progress.add_task("eval photos", total=None)
            plan = Plan(self.data, self.synonyms, self.parts, self.ablate, self.limit or None, self.seed)
            scores = measure(pipe, photos, plan, lambda count: progress.advance(task, count))
        data: dict[str, Any] = {"config": asdict(config), "test_photos": len(photos.test), **scores}
        text = report(data)
        write_json(self.out / "scores.json", data)
        write_text(self.out / "scores.md", text)
        if self.json:
            emit(data)
        else:
            stdout().print(text, markup=False, highlight=False)
        return 0
