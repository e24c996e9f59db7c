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


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("items_at_once", [1, 4])
def test_rate_and_time_left_are_of_all_that_was_done_however_it_is_counted(items_at_once: int) -> None:
    """Batches of four take 24 s, and their items are counted within an instant."""
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=120, get_time=clock)

    def shown() -> str:
        console.file = io.StringIO()
        progress.refresh()
        return console.file.getvalue()

    with progress_bar(console) as progress:
        progress.live.auto_refresh = False
        task = progress.add_task("segment", total=60)
        assert "per s" not in shown()
        for batch in range(1, 16):
            clock.now += 24
            for _ in range(4 // items_at_once):
                clock.now += 0.001
                progress.advance(task, items_at_once)
            if batch == 1:
                text = shown()
                assert "4/60" in text
                assert "0.17 per s" in text
                assert "0:05:36" in text
                clock.now += 10  # in the middle of the next batch less is left, and the rate is as it was
                text = shown()
                assert "0.17 per s" in text
                assert "0:05:26" in text
                clock.now -= 10
        clock.now += 100
        text = shown()
    assert "60/60" in text
    assert "0.17 per s" in text
    assert "0:00:00" in text


def test_the_rate_of_a_run_that_nobody_watches_is_right_at_its_end() -> None:
    """Without a terminal the bar is printed once."""
    clock = Clock()
    console = Console(file=io.StringIO(), width=120, get_time=clock)
    with progress_bar(console) as progress:
        task = progress.add_task("eval", total=11)
        for batch in (4, 4, 3):
            clock.now += 101 * batch / 11
            for _ in range(batch):
                progress.advance(task)
                clock.now += 1e-5
    assert "11/11" in console.file.getvalue()
    assert "0.11 per s" in console.file.getvalue()


def test_a_rate_far_below_one_is_not_shown_as_nothing() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), width=120, get_time=clock)
    with progress_bar(console) as progress:
        task = progress.add_task("eval", total=2)
        clock.now += 60
        progress.advance(task)
    assert "0.017 per s" in console.file.getvalue()
    assert "0:01:00" in console.file.getvalue()


def test_one_object_is_one_line_and_never_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"name": "é", "n": [1, 2]})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"name": "é", "n": [1, 2]}
    with pytest.raises(ValueError, match="JSON compliant"):
        emit(float("nan"))
