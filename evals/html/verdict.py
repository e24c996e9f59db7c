"""Say the result of one group of runs in a sentence or two, from the figures of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evals.html.table import Cell, FigureRow, Table

# The first of these that a group has is its result; the second list says what it was bought with.
HEADLINES = ("CHAIR_S", "CHAIR", "accuracy", "aAcc", "score", "mIoU", "pointing accuracy")
BESIDE = ("recall", "Cover", "F1", "qAcc")
MEANINGS = {
    "CHAIR_S": "of the texts name something that is not in the picture",
    "CHAIR": "of the nouns name something that is not in the picture",
    "accuracy": "of the answers are right",
    "aAcc": "of the answers are right",
}


def verdict(names: Sequence[str], tables: Sequence[Table]) -> tuple[str, ...]:
    """Write the result as sentences: of a single run its figure, of several the difference of each from the first.

    Args:
        names: of the runs, in the order of the tables' cells.
        tables: of the group.

    Returns:
        No sentence where the tables have none of `HEADLINES`.
    """
    rows = list(_rows(tables))
    headline = next(((title, row) for name in HEADLINES for title, row in rows if row.label == name), None)
    if headline is None:
        return ()
    title, row = headline
    beside = next((other for name in BESIDE for where, other in rows if where == title and other.label == name), None)
    where = f" on {title}" if title else ""
    first = _single(names[0], row, beside, where)
    return (first, *(_against(names, at, row, beside) for at in range(1, len(names)) if row.cells[at].value))


def _single(name: str, row: FigureRow, beside: FigureRow | None, where: str) -> str:
    cell = row.cells[0]
    if not cell.value:
        return f"{name} has no {row.label}."
    share = f"{cell.value}{_unit(row)}"
    interval = f" (95 % interval {cell.interval})" if cell.interval else ""
    meaning = f"{share} {MEANINGS[row.label]}" if row.label in MEANINGS else f"{row.label} {share}"
    rest = f", at {_said(beside, 0)}" if beside and beside.cells[0].value else ""
    return f"{name}{where}: {meaning}{interval}{rest}."


def _against(names: Sequence[str], at: int, row: FigureRow, beside: FigureRow | None) -> str:
    cell = row.cells[at]
    found = f"{names[at]} has {row.label} {cell.value}{_unit(row)}, {names[0]} {row.cells[0].value}{_unit(row)}"
    if not cell.change:
        how = "the two cannot be paired"
    elif cell.verdict:
        how = f"{cell.verdict}, by more than chance explains ({_change(cell)})"
    else:
        how = f"a difference that chance explains ({_change(cell)})"
    rest = ""
    if beside and beside.cells[at].value and beside.cells[0].value:
        rest = f"; {beside.label} {beside.cells[at].value} against {beside.cells[0].value}{_unit(beside)}"
    return f"{found}: {how}{rest}."


def _change(cell: Cell) -> str:
    return f"{cell.change}, {cell.p}" if cell.p else cell.change


def _said(row: FigureRow, at: int) -> str:
    return f"{row.label} {row.cells[at].value}{_unit(row)}"


def _unit(row: FigureRow) -> str:
    return f"\u00a0{row.unit}" if row.unit == "%" else ""


def _rows(tables: Sequence[Table]) -> Iterator[tuple[str, FigureRow]]:
    for table in tables:
        for row in table.rows:
            yield table.title, row
