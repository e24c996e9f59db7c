"""Build one self-contained HTML page about one or several runs, without scripts or external resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.chair.compare import PairedDifference
from evals.chair.lexicon import Lexicon
from evals.chair.report import shown
from evals.diagnostics.plots import INK, figures, page_svg, sensitivity_figure
from evals.diagnostics.summary import FILE, Diagnostics, read_diagnostics
from evals.folder import Folder
from evals.html.cases import Case, worst
from evals.html.curve import curve_figure
from evals.html.flags import flags
from evals.html.paired import paired
from evals.html.sections import Figure, Section, digits, label, sections, unit
from evals.html.table import Cell, FigureRow, Table
from evals.html.verdict import verdict

SENSITIVITY = "sensitivity.yaml"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plot:
    """A figure as an SVG element, with its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class ReportRun:
    """One run on the page.

    Attributes:
        name: in every table: the folder's, with as many folders above as make it unique.
        about: model and steering; empty where unknown.
        facts: settings of the run, name and value.
        flags: warnings.
        failures: the first samples without an answer, id and reason.
        plots: diagnostics.
        looked: number of texts behind the diagnostics.
        cases: the worst samples.
    """

    name: str
    about: str
    facts: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    plots: tuple[Plot, ...]
    looked: int
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Group:
    """The runs of one task, compared with the first.

    Attributes:
        task: its name.
        verdict: the result in a sentence or two.
        runs: the runs.
        tables: their figures.
        curves: their truncation curves.
    """

    task: str
    verdict: tuple[str, ...]
    runs: tuple[ReportRun, ...]
    tables: tuple[Table, ...]
    curves: tuple[Plot, ...]


SURE = 0.05
_FAILURES = 10


def build(
    folders: Sequence[Folder], *, title: str, cases: int = 12, lexicon: Lexicon | None = None, seed: int = 0
) -> str:
    """Render the page.

    Args:
        folders: the runs, at least one; runs of one task are compared with the first of them.
        title: of the page.
        cases: most worst samples shown per run.
        lexicon: from words to objects, for highlighting; None for the words that each run counted.
        seed: of bootstrap and permutation test.

    Raises:
        EvalDataError: a folder's diagnostics are broken.
        MethodError: a folder's sensitivity file is broken.
    """
    import jinja2

    from grounding import __version__

    names = dict(zip((one.path for one in folders), unique_names(folders), strict=True))
    tasks = list(dict.fromkeys(one.task for one in folders))
    groups = [_group(task, [one for one in folders if one.task == task], names, cases, lexicon, seed) for task in tasks]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        groups=groups,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        version=__version__,
    )


def unique_names(folders: Sequence[Folder]) -> list[str]:
    """Name the folders by as many trailing parts of their paths as make the names unique."""
    paths = [one.path.resolve() for one in folders]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def table(title: str, found: Sequence[Section | None], differences: Sequence[Mapping[str, PairedDifference]]) -> Table:
    """Build the table of one section, runs side by side.

    Args:
        title: of the section.
        found: the section of each run; None if a run has none.
        differences: each run's differences from the first, by metric.
    """
    there = [one for one in found if one is not None]
    names = list(dict.fromkeys(name for one in there for name in one.figures))
    rows = []
    for name in names:
        better = next((one.better[name] for one in there if name in one.better), None)
        cells = tuple(
            _cell(name, one.figures.get(name) if one else None, change.get(name), better)
            for one, change in zip(found, differences, strict=True)
        )
        rows.append(FigureRow(label(name), unit(name), {True: "↑", False: "↓", None: ""}[better], cells))
    counts = tuple(f"n = {one.n}" if one and one.n is not None else "" for one in found)
    return Table(title, counts, tuple(rows))


def _group(
    task: str,
    folders: Sequence[Folder],
    names: Mapping[Path, str],
    cases: int,
    lexicon: Lexicon | None,
    seed: int,
) -> Group:
    found = [{one.title: one for one in sections(folder.scores)} for folder in folders]
    changes = [{}, *(paired(folders[0], other, seed=seed) for other in folders[1:])]
    titles = list(dict.fromkeys(title for one in found for title in one))
    tables = [
        table(title, [one.get(title) for one in found], [one.get(title, {}) for one in changes]) for title in titles
    ]
    scores = {names[one.path]: one.scores for one in folders}
    curves = []
    for measure, what in (("chair_i", "mentions that are invented"), ("chair_s", "texts that invent something")):
        figure = curve_figure(scores, measure, INK)
        if figure is not None:
            caption = (
                f"Recall against the share of {what}. Large marks are the runs as they are; a line is a run's texts "
                "cut after k words. A method is worth its name only where its mark lies below the first run's line."
            )
            curves.append(Plot(page_svg(figure, caption), caption))
    runs = tuple(_run(folder, names[folder.path], cases, lexicon) for folder in folders)
    return Group(task, verdict([run.name for run in runs], tables), runs, tuple(tables), tuple(curves))


def _run(folder: Folder, name: str, cases: int, lexicon: Lexicon | None) -> ReportRun:
    file = folder.path / FILE
    diagnostics = read_diagnostics(file) if file.is_file() else None
    failures = tuple((one.id, one.error) for one in folder.samples if one.error)
    return ReportRun(
        name=name,
        about=", ".join(filter(None, (_short(folder.model), folder.steering))),
        facts=tuple(_facts(folder)),
        flags=flags(folder),
        failures=failures[:_FAILURES],
        plots=(*(_plots(diagnostics) if diagnostics else ()), *_sensitivity(folder.path / SENSITIVITY)),
        looked=len(diagnostics.texts) if diagnostics else 0,
        cases=worst(folder, cases, lexicon),
    )


def _short(model: str | None) -> str | None:
    """A model's hub id or packaged name, or the last part of its folder's path."""
    return Path(model).name if model and Path(model).is_absolute() else model


def _plots(found: Diagnostics) -> tuple[Plot, ...]:
    return tuple(Plot(page_svg(figure, caption), caption) for caption, figure in figures(found, INK).values())


def _sensitivity(file: Path) -> tuple[Plot, ...]:
    if not file.is_file():
        return ()
    from grounding.steering.sensitivity import load_sensitivity

    caption, figure = sensitivity_figure(load_sensitivity(file), INK)
    return (Plot(page_svg(figure, caption), caption),)


def _facts(folder: Folder) -> Iterable[tuple[str, str]]:
    """List a run's settings from the manifest and the scores, the most important first."""
    known = {
        "model": folder.model,
        "steering": folder.steering or "none",
        "samples": folder.manifest.get("samples") or len(folder.samples) or folder.scores.get("n"),
        "config hash": folder.said("config_hash"),
        "image hash": folder.said("image_hash"),
        "seeds": folder.said("seeds", "seed"),
        "prompts": folder.said("prompts"),
        "variant": folder.scores.get("variant"),
        "decoding": folder.said("decoding"),
        "hashes": folder.scores.get("hashes"),
        "start": folder.manifest.get("start"),
        "end": folder.manifest.get("end"),
        "versions": folder.said("versions"),
    }
    if not folder.manifest and folder.model is None:
        known.pop("steering")
    for name, value in known.items():
        if value not in (None, "", {}, []):
            yield name, _said(value)
    steering = folder.manifest.get("steering")
    if isinstance(steering, Mapping) and steering.get("yaml"):
        yield "steering file", str(steering["yaml"])


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return str(value)


def _cell(name: str, figure: Figure | None, change: PairedDifference | None, better: bool | None) -> Cell:
    if figure is None:
        return Cell("")
    places = digits(name)
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"{figure.low:.{places}f} to {figure.high:.{places}f}"
    if change is None:
        return Cell(f"{figure.value:.{places}f}", interval)
    ends = change.difference
    value, low, high = (_signed(shown(name, one), places) for one in (ends.value, ends.low, ends.high))
    verdict = ""
    if better is not None and (ends.low > 0 or ends.high < 0) and change.p < SURE:
        verdict = "better" if (ends.value > 0) is better else "worse"
    p = "p < 0.001" if change.p < 0.001 else f"p = {change.p:.3f}"
    return Cell(f"{figure.value:.{places}f}", interval, f"{value} ({low} to {high})", p, verdict)


def _signed(value: float, places: int) -> str:
    """Format with a sign; a rounded 0 has none."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\u2212")
