"""Which commands a text mentions, and which there are."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

from evals.tasks.registry import TASKS
from grounding.command import ENTRY_POINTS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLED = {tuple(entry.name.split(".")) for entry in entry_points(group=ENTRY_POINTS)}
# The registered ones; an editable installation knows a new one only when it is made again.
COMMANDS = {tuple(name.split(".")) for name in PROJECT["entry-points"][ENTRY_POINTS]} | INSTALLED
GROUPS = {path[:1] for path in COMMANDS if len(path) > 1}
# The program's name and the words behind it; a mention ends at an option, a word in capitals or punctuation.
_MENTION = re.compile(r"(?<![\w./:-])grounding((?: +[a-z][\w-]*)+)")


def mentions(text: str) -> list[list[str]]:
    """The words behind every `grounding`, also across line ends and the frame of a box."""
    return [found[1].split() for found in _MENTION.finditer(" ".join(text.replace("│", " ").split()))]


def is_command(words: list[str]) -> bool:
    """Whether words begin with a command, a task of `eval run` or a group; files and prose may follow."""
    path = tuple(words)
    if path[:2] == ("eval", "run"):
        return len(path) == 2 or path[2] in TASKS
    return any(path[: len(known)] == known for known in COMMANDS) or path in GROUPS
