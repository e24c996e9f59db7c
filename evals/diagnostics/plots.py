"""Figures of diagnostics, for files and for HTML pages with a light and a dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.diagnostics.summary import Diagnostics
from grounding.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from grounding.steering.sensitivity import Sensitivity

# After Okabe and Ito: distinct under most colour blindness, and legible on light and dark backgrounds.
COLOURS = {"system": "#8b95a5", "image": "#2b7fc4", "instruction": "#e0931c", "generated": "#1f9e77"}
REAL, HALLUCINATED = "#2b7fc4", "#d9542b"
LABELS = {
    "system": "system",
    "image": "image",
    "instruction": "instruction",
    "generated": "generated",
}
INK = "#13579b"  # replaced by the page's text colour in an SVG; no figure uses it for anything else
_INK_IN_FILES = "#2a2e37"
_TICKS = 8
_KINDS = {
    "mass": "attention on image keys",
    "ablation": "fall of the log-probability",
    "gradient": "fall of the log-probability, first order",
    "mask": "share on the object",
}


def figures(found: Diagnostics, ink: str = _INK_IN_FILES) -> dict[str, tuple[str, Figure]]:
    """All figures that the diagnostics have data for: by file name, a one-sentence caption and the figure."""
    drawn: dict[str, tuple[str, Callable[[Axes, Diagnostics, str], None], bool]] = {
        "segments": (
            "What a token is written from, by layer: keys before the image (system), of the image, after it "
            "(instruction), and of the text so far (generated); mean over heads, tokens and texts.",
            _segments,
            True,
        ),
        "curve": (
            "Image share along the text; the band holds the middle half of the texts.",
            _curve,
            bool(found.curve),
        ),
        "layers": ("Image share by layer and generated token, mean over heads and texts.", _layers, bool(found.curve)),
        "heads": ("Image share of every head, mean over tokens and texts.", _heads, True),
        "sinks": (
            f"Attention on sinks: the first token, and image keys whose phi is at least {found.tau:g}.",
            _sinks,
            True,
        ),
        "objects": (
            "Image share where an object is named, for objects that are there and that are not; 95 % intervals.",
            _objects,
            found.real is not None or found.hallucinated is not None,
        ),
    }
    return {name: (caption, _drawn(draw, found, ink)) for name, (caption, draw, there) in drawn.items() if there}


def sensitivity_figure(found: Sensitivity, ink: str = _INK_IN_FILES) -> tuple[str, Figure]:
    """Caption and figure of a measured head sensitivity."""
    figure, axes = new_figure(ink)
    grid = np.array(found.values)
    _map(axes, grid, ink, _KINDS[found.kind], (-0.5, grid.shape[1] - 0.5), least=float(min(grid.min(), 0)))
    axes.set(xlabel="head", ylabel="decoder layer")
    return f"Visual sensitivity of every head ({_KINDS[found.kind]}), mean over {found.n} samples.", figure


def save_figures(found: Diagnostics, folder: Path) -> list[Path]:
    """Write every figure as PNG and as SVG.

    Raises:
        OutputError: the folder cannot be written to.
    """
    written = []
    for name, (_, figure) in figures(found).items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=160, facecolor="white")
        written.append(write_bytes(folder / f"{name}.png", stream.getvalue()))
        written.append(write_text(folder / f"{name}.svg", _svg(figure)))
    return written


def page_svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element for an HTML page: without external references, text in the page's colour.

    Args:
        figure: drawn with `INK`.
        label: text alternative for screen readers.
    """
    from html import escape

    text = _svg(figure, transparent=True)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(
        r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">', text
    )
    return text.replace(INK, "currentColor")


def new_figure(ink: str, height: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure in the project's style: no frame, transparent, narrow enough for a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.tick_params(colors=ink, labelsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(ink)
        axis.label.set_fontsize(11)
    axes.grid(axis="y", color=ink, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def legend(axes: Axes, ink: str, columns: int = 1) -> None:
    """A legend above the axes, without a box."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        labelcolor=ink,
        fontsize=10,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.4,
    )


def _drawn(draw: Callable[[Axes, Diagnostics, str], None], found: Diagnostics, ink: str) -> Figure:
    figure, axes = new_figure(ink)
    draw(axes, found, ink)
    return figure


def _svg(figure: Figure, *, transparent: bool = False) -> str:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "grounding"}):
        figure.savefig(stream, format="svg", transparent=transparent, metadata={"Date": None})
    return stream.getvalue()


def _segments(axes: Axes, found: Diagnostics, ink: str) -> None:
    below = np.zeros(found.layers)
    for name, shares in found.segments.items():
        values = 100 * np.array(shares)
        axes.bar(range(found.layers), values, bottom=below, width=0.86, color=COLOURS.get(name), label=LABELS.get(name))
        below = below + values
    axes.set(xlabel="decoder layer", ylabel="share of attention (%)", ylim=(0, 100), xlim=(-0.6, found.layers - 0.4))
    _whole(axes.xaxis)
    legend(axes, ink, 4)


def _curve(axes: Axes, found: Diagnostics, ink: str) -> None:
    places = np.arange(1, len(found.curve) + 1)
    low, middle, high = (100 * np.array(one) for one in (found.curve_low, found.curve, found.curve_high))
    axes.fill_between(places, low, high, color=COLOURS["image"], alpha=0.2, linewidth=0)
    axes.plot(places, middle, color=COLOURS["image"], linewidth=2, marker="o" if len(places) < 20 else "", markersize=4)
    axes.set(xlabel="generated token", ylabel="image share (%)", ylim=(0, None))
    _whole(axes.xaxis)


def _layers(axes: Axes, found: Diagnostics, ink: str) -> None:
    grid = 100 * np.array(found.by_token)
    _map(axes, grid, ink, "image share (%)", (0.5, grid.shape[1] + 0.5))
    axes.set(xlabel="generated token", ylabel="decoder layer")


def _heads(axes: Axes, found: Diagnostics, ink: str) -> None:
    _map(axes, 100 * np.array(found.head_image), ink, "image share (%)", (-0.5, found.heads - 0.5))
    axes.set(xlabel="head", ylabel="decoder layer")


def _sinks(axes: Axes, found: Diagnostics, ink: str) -> None:
    image, sinks = np.array(found.segments["image"]), np.array(found.visual_sinks)
    lines = (
        ("first token", np.array(found.first_key), COLOURS["system"], "s"),
        ("visual sinks", sinks, HALLUCINATED, "^"),
        ("image without its sinks", image - sinks, COLOURS["image"], "o"),
    )
    for label, values, colour, marker in lines:
        axes.plot(100 * values, color=colour, label=label, linewidth=2, marker=marker, markersize=5)
    axes.set(xlabel="decoder layer", ylabel="share of attention (%)", ylim=(0, None))
    _whole(axes.xaxis)
    legend(axes, ink, 3)


def _objects(axes: Axes, found: Diagnostics, ink: str) -> None:
    kinds = (("there", found.real, REAL, "o"), ("not there", found.hallucinated, HALLUCINATED, "^"))
    for label, at, colour, marker in kinds:
        if at is not None:
            low, middle, high = (100 * np.array(one) for one in (at.low, at.mean, at.high))
            axes.fill_between(range(found.layers), low, high, color=colour, alpha=0.18, linewidth=0)
            name = f"{label} ({at.n} words)"
            axes.plot(middle, color=colour, label=name, linewidth=2, marker=marker, markersize=5)
    axes.set(xlabel="decoder layer", ylabel="image share (%)", ylim=(0, None))
    _whole(axes.xaxis)
    legend(axes, ink, 2)


def _map(axes: Axes, grid: Any, ink: str, label: str, across: tuple[float, float], least: float = 0.0) -> None:
    """Draw [rows, columns] as coloured cells, row 0 at the top, with a colour bar that starts at `least`."""
    extent = (*across, grid.shape[0] - 0.5, -0.5)
    shown = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=least, interpolation="nearest", extent=extent)
    axes.grid(False)
    _whole(axes.xaxis)
    _whole(axes.yaxis)
    figure = axes.figure
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label(label, color=ink, size=11)
    bar.ax.tick_params(colors=ink, labelsize=10)
    bar.outline.set_visible(False)


def _whole(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(_TICKS, integer=True, min_n_ticks=1))
