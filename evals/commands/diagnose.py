"""`grounding eval diagnose`: show where a model attends while it generates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from evals.commands.generation import check_seed
from grounding.console import emit, progress_bar, stderr, stdout
from grounding.errors import EvalDataError, GroundingError, UsageError
from grounding.runs.lock import hold

if TYPE_CHECKING:
    from evals.diagnostics.sources import PictureQuestion
    from evals.diagnostics.summary import Diagnostics, TracedItem
    from grounding.steering.method import Steering


@dataclass(frozen=True, kw_only=True)
class EvalDiagnoseCommand:
    """Describe pictures and summarise what every generated token attends to, with the model's own kernel.

    Writes diagnostics.json and figures as PNG and SVG: shares of attention on image, instruction and earlier words, by
    layer, head and position in the text; sinks; and, where the truth is known, at words for objects that the picture
    shows and does not show. In a run's folder, `grounding eval report` includes them.

    Exit codes: 0 success; 1 some pictures were left out, each with its reason on stderr; 2 refused.

    Attributes:
        images: pictures to ask about.
        question: the prompt; left out, the model's own request for a description.
        scenes: number of drawn scenes to use instead, whose truth is known.
        run_folder: use the samples of this run instead, with its model and steering unless others are given.
        synonyms: CHAIR's synonym list for the words of a run's texts; without it those that the run's details name.
        model: `starter`, `starter-photo`, a folder written by save_pretrained, or a hub id.
        steer: a shipped steering method's name or a YAML file.
        max_new_tokens: longest text in tokens.
        limit: most pictures.
        tau: image keys with a phi of at least tau count as visual sinks.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        family: `probe` for a model without a family here, or a model type to read it as; its own if left out.
        seed: of the scenes and the bootstrap.
        budget_mib: memory budget of one step's attention, in MiB.
        out: folder to write to; the run's own where one is given.
        json: print the diagnostics as one JSON object on stdout.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    question: str | None = None
    scenes: int = 0
    run_folder: Path | None = None
    synonyms: str | None = None
    model: str | None = None
    steer: str | None = None
    max_new_tokens: int = 256
    limit: int = 32
    tau: float = 20.0
    device: str = "auto"
    dtype: str = "auto"
    family: str | None = None
    seed: int = 0
    budget_mib: int = 2048
    out: Path | None = None
    json: bool = False

    def run(self) -> int:
        """Generate, summarise, write and print."""
        check_seed(self.seed)
        if bool(self.images) + bool(self.scenes) + bool(self.run_folder) != 1:
            raise UsageError("give one of: images, --scenes N, or --run-folder DIR")
        if min(self.limit, self.budget_mib) < 1 or self.scenes < 0 or self.tau <= 0:
            raise UsageError(
                f"--limit {self.limit} --budget-mib {self.budget_mib} --scenes {self.scenes} --tau {self.tau} were "
                "given, expected limit and budget of at least 1, scenes of at least 0 and a tau above 0"
            )
        items, model, steering = self._chosen()
        items = items[: self.limit]
        out = self.out or self.run_folder or Path("diagnostics")
        with hold(out, "diagnostics"):
            return self._write(self._diagnose(items, model, steering), len(items), out)

    def _write(self, found: Diagnostics, asked: int, out: Path) -> int:
        from evals.diagnostics.plots import save_figures
        from evals.diagnostics.summary import FILE
        from grounding.files import write_json

        write_json(out / FILE, asdict(found), indent=None)
        pictures = save_figures(found, out / "diagnostics")
        if self.json:
            emit(asdict(found))
        else:
            self._print(found)
            stdout().print(f"\n{out / FILE} and {len(pictures)} figures in {out / 'diagnostics'}")
        return 1 if len(found.texts) < asked else 0

    def _chosen(self) -> tuple[list[PictureQuestion], str, Steering | None]:
        """Return the items, the model's name and the steering."""
        from evals.diagnostics.sources import from_images, from_run, from_scenes
        from grounding.steering.method import load_steering, parse_steering

        steering = load_steering(self.steer) if self.steer else None
        if self.scenes:
            return from_scenes(self.scenes, self.seed, self.question or ""), self.model or "starter", steering
        if self.run_folder is None:
            return from_images(self.images, self.question or ""), self.model or "starter-photo", steering
        from evals.folder import read_folder

        run = read_folder(self.run_folder)
        lexicon = None
        if self.synonyms:
            from evals.chair.lexicon import read_lexicon
            from evals.fetch import local_file

            lexicon = read_lexicon(local_file(self.synonyms, "the synonyms"))
        model = self.model or run.model
        if model is None:
            raise UsageError(f"{self.run_folder} does not say which model ran: give it with --model")
        if steering is None and run.steering_text:
            steering = parse_steering(run.steering_text, run.steering or "steering", f"the manifest of {run.path}")
        elif steering is None and run.steering:
            steering = load_steering(run.steering)
        return from_run(run, lexicon), model, steering

    def _diagnose(self, items: list[PictureQuestion], model: str, steering: Steering | None) -> Diagnostics:
        from evals.diagnostics.summary import TracedItem, summarise
        from evals.diagnostics.trace import trace
        from grounding.attention.sinks import SinkRule
        from grounding.faults import attempt_one
        from grounding.models.load import load
        from grounding.runs.provenance import model_identity, short_hash, versions
        from grounding.steering.decoding import Decoding

        decoding, sinks = Decoding(max_new_tokens=self.max_new_tokens), SinkRule(self.tau)
        vlm = load(model, self.device, self.dtype, family=self.family)
        if vlm.notice:
            stderr().print(f"note: {vlm.notice}")
        items = [replace(item, question=item.question or vlm.default_question) for item in items]
        looked: list[TracedItem] = []
        first = ""
        with progress_bar(stderr()) as progress:
            task = progress.add_task("diagnose", total=len(items))

            def look(item: PictureQuestion) -> TracedItem:
                budget = self.budget_mib << 20
                one = trace(vlm, item.open(), item.question, steering, decoding, sinks, budget_bytes=budget)
                return TracedItem(item.id, item.question, one, item.words(one.text))

            for item in items:
                outcome = attempt_one(partial(look, item))
                if isinstance(outcome, GroundingError):
                    first = first or str(outcome)
                    stderr().print(f"{item.id} is left out: {outcome}")
                else:
                    looked.append(outcome)
                progress.advance(task)
        if not looked:
            raise EvalDataError(f"none of the {len(items)} pictures could be used; the first: {first}")
        settings: dict[str, Any] = {
            **asdict(model_identity(model, self.device, self.dtype, self.family)),
            "steering": steering.to_yaml() if steering else None,
            "decoding": asdict(decoding),
            "sinks": asdict(sinks),
            "items": [[one.id, one.question] for one in items],
            "seed": self.seed,
        }
        return summarise(
            looked,
            model=model,
            steering=steering.name if steering else None,
            config_hash=short_hash(settings, 12),
            versions=versions(),
            sinks=sinks,
            seed=self.seed,
        )

    def _print(self, found: Diagnostics) -> None:
        from evals.report import aligned

        lines = [["layer", *found.segments, "first token", "visual sinks", "sink keys"]]
        for layer in range(found.layers):
            shares = [values[layer] for values in found.segments.values()]
            more = (found.first_key[layer], found.visual_sinks[layer], found.sink_keys[layer])
            lines.append([str(layer), *(f"{100 * one:.1f}" for one in (*shares, *more))])
        stdout().print(f"{len(found.texts)} texts of {found.model}, steering {found.steering or 'none'}\n")
        stdout().print("share of attention in percent, mean over heads, tokens and texts\n")
        stdout().print(aligned(lines))
        for name, at in (("there", found.real), ("not there", found.hallucinated)):
            if at is not None:
                share = 100 * sum(at.mean) / len(at.mean)
                stdout().print(f"at {at.n} words for objects that are {name}: image share {share:.1f}")
