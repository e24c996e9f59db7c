"""Every help text and every box of an error names only commands that exist."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from evals.tasks.registry import TASKS
from grounding.cli import main
from grounding.command import ENTRY_POINTS

INSTALLED = {tuple(entry.name.split(".")) for entry in entry_points(group=ENTRY_POINTS)}
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The registered ones; an editable installation knows a new one only when it is made again.
COMMANDS = {tuple(name.split(".")) for name in PROJECT["entry-points"][ENTRY_POINTS]} | INSTALLED
GROUPS = {path[:1] for path in COMMANDS if len(path) > 1}
PATHS = sorted({*INSTALLED, *GROUPS, ("eval", "run"), *(("eval", "run", task) for task in TASKS)})
# The program's name and the words behind it; a mention ends at an option, a capital placeholder or punctuation.
MENTION = re.compile(r"(?<![\w./:-])grounding((?: +[a-z][\w-]*)+)")
WIDTH = 2000  # columns, so that no mention is broken by a line's end


def command_words(words: list[str]) -> bool:
    """Whether words begin with a command, a task of `eval run` or a group; files and prose may follow."""
    path = tuple(words)
    if path[:2] == ("eval", "run"):
        return len(path) == 2 or path[2] in TASKS
    return any(path[: len(known)] == known for known in COMMANDS) or path in GROUPS


def mentions(text: str) -> list[list[str]]:
    return [found[1].split() for found in MENTION.finditer(" ".join(text.replace("│", " ").split()))]


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
    assert [words for words in found if not command_words(words)] == []
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
    assert [one for one in found if not command_words(one)] == []
    assert "\u00a0" not in err


def test_a_mention_of_no_command_is_found() -> None:
    assert mentions("in grounding amber --help, and `grounding eval\n run pope`") == [
        ["amber"],
        ["eval", "run", "pope"],
    ]
    assert not command_words(["amber"])
    assert not command_words(["eval", "run", "doctor"])
    assert command_words(["eval", "report", "runs"])
