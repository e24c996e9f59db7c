"""Registration of a sub-command: its line and group in the help, and the class that runs it.

A distribution adds a sub-command by an entry point in `grounding.commands` that names a `Command`. A dot in the entry
point's name makes a group: `eval.scenes` is `grounding eval scenes`. The module that holds the `Command` must import
nothing heavy, because `grounding --help` loads all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol, get_args

ENTRY_POINTS = "grounding.commands"

Group = Literal["Use", "Measure", "Calibrate", "Benchmark", "Look at your installation", "Others"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""The sections of `grounding --help`, in order."""


class Runnable(Protocol):
    """A parsed command: a frozen dataclass whose fields are its options and whose docstring is its help."""

    def run(self) -> int:
        """Run the command.

        Returns:
            The exit code: 0 for success, 1 if some items failed or a check did not pass.

        Raises:
            GroundingError: an error that a user can correct; the command line prints it and exits with 2.
        """


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        summary: its line in the help, without a full stop at the end.
        target: `module:Class` of the `Runnable` dataclass; imported only when the command runs.
        group: its section of `grounding --help`; `Others` for commands of other packages.
    """

    summary: str
    target: str
    group: Group = "Others"

    def load(self) -> type[Runnable]:
        """Import the class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)
