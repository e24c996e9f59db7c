from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from grounding.console import emit, progress_bar, stderr, stdout


def test_results_and_notices_go_to_their_streams(capsys: pytest.CaptureFixture[str]) -> None:
    stdout.cache_clear()
    stderr.cache_clear()
    stdout().print("[bold]7[/bold] of 8")
    stderr().print("note: [3]")
    assert capsys.readouterr() == ("[bold]7[/bold] of 8\n", "note: [3]\n")  # no markup is read


def test_the_bar_shows_count_and_items_per_second() -> None:
    clock = iter(range(0, 10_000, 4))
    console = Console(file=io.StringIO(), force_terminal=True, width=120, get_time=lambda: float(next(clock)))
    with progress_bar(console) as progress:
        progress.get_time = console.get_time
        task = progress.add_task("measure", total=3)
        for _ in range(3):
            progress.advance(task)
    text = console.file.getvalue()
    assert "measure" in text
    assert "3/3" in text
    assert " per s" in text


def test_one_object_is_one_line_and_never_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"name": "é", "n": [1, 2]})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"name": "é", "n": [1, 2]}
    with pytest.raises(ValueError, match="JSON compliant"):
        emit(float("nan"))
