"""What a package gives the command line: one line for the help, and where the command is found when it is called.

A distribution adds a command by an entry point in the group `grounding.commands` that names a `Command`; a dot in the
entry point's name makes a group (`eval.scenes` is `grounding eval scenes`). The module that holds the `Command` should
import nothing heavy, because `grounding --help` loads all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

GROUP = "grounding.commands"


class Runnable(Protocol):
    """A parsed command: a frozen dataclass whose fields are its options and whose docstring is its help."""

    def run(self) -> int:
        """Do it.

        Returns:
            The exit code: 0 for success.

        Raises:
            GroundingError: something a user can mend; the command line prints it and exits with 2.
        """


@dataclass(frozen=True)
class Command:
    """One command as the help shows it.

    Attributes:
        summary: one line, without a full stop at its end.
        target: `module:Class` of the `Runnable` dataclass; imported only when the command is called.
    """

    summary: str
    target: str

    def load(self) -> type[Runnable]:
        """Import the class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)
