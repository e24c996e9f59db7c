"""The tables of the page: one metric of every run a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One run's metric in a table.

    Attributes:
        value: the metric, formatted; empty if the run has none.
        interval: its interval, formatted; empty without one.
        change: the difference from the first run with its interval; empty if the runs cannot be paired.
        p: p value of the paired test; empty without one.
        verdict: `better` or `worse` if the interval of the difference excludes 0 and p is below `SURE`; else empty.
    """

    value: str
    interval: str = ""
    change: str = ""
    p: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class FigureRow:
    """One metric of every run."""

    label: str
    unit: str
    arrow: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """One section of every run."""

    title: str
    counts: tuple[str, ...]
    rows: tuple[FigureRow, ...]

    @property
    def has_changes(self) -> bool:
        """Whether any cell has a difference."""
        return any(cell.change for row in self.rows for cell in row.cells)
