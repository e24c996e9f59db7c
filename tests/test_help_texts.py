"""Every help text and every box of an error names only commands that exist."""

from __future__ import annotations

import pytest
from command_mentions import GROUPS, INSTALLED, is_command, mentions

from evals.tasks.registry import TASKS
from grounding.cli import main

PATHS = sorted({*INSTALLED, *GROUPS, ("eval", "run"), *(("eval", "run", task) for task in TASKS)})
WIDTH = 2000  # columns, so that no mention is broken by a line's end


@pytest.fixture(autouse=True)
def wide(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.mark.parametrize("path", [(), *PATHS], ids=" ".join)
def test_a_help_text_names_commands_that_exist(path, capsys) -> None:
    assert main([*path, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = mentions(out)
    assert list(path) in [words[: len(path)] for words in found] or path == ()
    assert [words for words in found if not is_command(words)] == []
    assert "\u00a0" not in out


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "run", "pope", "--protocl", "official"),
        ("eval", "run", "--imags", "x", "chair"),
        ("eval", "run", "amber", "--scene-sed", "3"),
        ("eval", "run", "chiar"),
        ("eval", "run"),
        ("eval", "amber", "--imags", "x"),
        ("calibrate", "gains", "--fit.pases", "3"),
        ("segment", "--modle", "x"),
    ],
    ids=" ".join,
)
def test_the_box_of_an_error_names_commands_that_exist(words, capsys) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    found = mentions(err)
    assert found
    assert [one for one in found if not is_command(one)] == []
    assert "\u00a0" not in err


def test_a_mention_of_no_command_is_found() -> None:
    assert mentions("in grounding amber --help, and `grounding eval\n run pope`") == [
        ["amber"],
        ["eval", "run", "pope"],
    ]
    assert not is_command(["amber"])
    assert not is_command(["eval", "run", "doctor"])
    assert is_command(["eval", "report", "runs"])
