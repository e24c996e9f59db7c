"""`grounding eval photos`: measure pointing, POPE and CHAIR on annotated test photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import GroundingError, UsageError
from pipelines.options import ModelOptions

PARTS = ("nouns", "expressions", "pope", "captions")


@dataclass(frozen=True, kw_only=True)
class EvalPhotosCommand(ModelOptions):
    """Measure nouns, human expressions, POPE's questions and captions on the test photos of a folder.

    Nouns: for every annotated class of at least 2 % of its photo, whether the best point lies on it, and the mask's
    IoU; the controls are the picture's centre, the map of another class, and every head's map taken from another photo.
    Expressions: whether the best point lies in the box; the controls are the head noun alone and the centre. POPE:
    accuracy, F1 and share of yes for each split. Captions: CHAIR. Intervals are 95 % percentile bootstraps, resampled
    by photo. The test photos are those that the starters were not trained on.

    Exit codes: 0 success; 1 some photos or questions failed (a reason on stderr, or a number in the scores); 2 refused.

    Attributes:
        data: folder of photos; see `grounding.photos`. For nouns alone also a folder with images/ and COCO's
            instances.json, all of whose photos are measured.
        synonyms: CHAIR's synonym list, one class per line; needed for captions.
        parts: which of nouns, expressions, pope and captions to measure.
        ablate: also measure nouns with each part of the method switched off.
        methods: other methods to measure nouns with, on the same recordings; shipped ones or YAML files, and `all` is
            every shipped one that fits the model.
        vary: variants of the method to measure nouns with: `contrasts`, every way of contrast against every background
            in the place of its own; `refinements`, one at its end.
        limit: most questions of each part; 0 is all.
        out: folder for scores.json and scores.md.
        json: print one JSON object on stdout instead of the tables.
    """

    data: Path
    model: str = "starter-photo"
    synonyms: Path | None = None
    parts: tuple[str, ...] = PARTS
    ablate: bool = False
    methods: tuple[str, ...] = ()
    vary: tuple[Literal["contrasts", "refinements"], ...] = ()
    limit: int = 0
    out: Path = Path("out/photos")
    json: bool = False

    def run(self) -> int:
        """Measure, print, and write scores.json and scores.md."""
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise UsageError(f"--parts {unknown[0]} was given, expected some of {', '.join(PARTS)}")
        from evals.photos.coco import is_coco

        if is_coco(self.data) and tuple(self.parts) != ("nouns",):
            raise UsageError(
                f"{self.data} holds photos with COCO's instances.json alone, which only nouns are measured on: choose "
                "--parts nouns"
            )
        if "captions" in self.parts and self.synonyms is None:
            others = " ".join(part for part in PARTS if part != "captions")
            raise UsageError(
                "captions are scored with CHAIR's list: give --synonyms FILE, or leave captions out with "
                f"--parts {others}"
            )
        if self.limit < 0 or self.seed < 0:
            raise UsageError(f"--limit {self.limit} --seed {self.seed} were given, expected 0 or more of both")
        from evals.variants import compared
        from grounding.models.load import load_config
        from grounding.runs.lock import hold

        compared(self.chosen_method(), self.methods, self.vary)  # refuses a misspelt name
        load_config(self.model)  # refuses a diffusion pipeline, which answers no questions
        with hold(self.out):
            return self._measure()

    def _measure(self) -> int:
        from evals.photos.coco import is_coco, read_coco
        from evals.photos.measure import measure
        from evals.photos.plan import PhotoPlan
        from evals.photos.questions import check_questions
        from evals.photos.report import report
        from grounding.files import write_json, write_text
        from grounding.photos import read_photos
        from grounding.runs.content import files_hash

        photos = read_coco(self.data) if is_coco(self.data) else read_photos(self.data)
        plan = PhotoPlan(
            self.data,
            self.synonyms,
            self.parts,
            self.ablate,
            self.limit or None,
            self.seed,
            self.methods,
            self.vary,
        )
        check_questions(plan)
        config = self.config()
        pipe = self.load()
        with progress_bar(stderr()) as progress:
            task = progress.add_task("eval photos", total=None)
            failures = 0

            def failed(what: str, error: GroundingError) -> None:
                nonlocal failures
                failures += 1
                stderr().print(f"failed: {what}: {error}")

            scores = measure(pipe, photos, plan, lambda count: progress.advance(task, count), failed)
        shown = files_hash(self.data, (*self.data.glob("*.json"), *(photo.file for photo in photos.test)))
        data: dict[str, Any] = {"config": config.plain(), "data_hash": shown, "test_photos": len(photos.test), **scores}
        text = report(data)
        write_json(self.out / "scores.json", data)
        write_text(self.out / "scores.md", text)
        if self.json:
            emit(data)
        else:
            stdout().print(text, markup=False, highlight=False)
        answered = [*scores.get("pope", {}).values(), *([scores["captions"]] if "captions" in scores else [])]
        return 1 if failures or any(part["failed"] for part in answered) else 0
