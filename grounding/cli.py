"""The command `grounding`: finds sub-commands by entry point, parses their options, and prints errors as one sentence.

Nothing heavy is imported before a sub-command runs. Exit codes: 0 success, 1 some items failed or a check did not pass,
2 refused (wrong usage, or an error that the user can correct), 130 interrupted, 141 the reader of stdout has gone.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TextIO, cast

from grounding import __version__
from grounding.command import ENTRY_POINTS, GROUPS, Command, Runnable
from grounding.console import write_any_text
from grounding.errors import GroundingError, UnexpectedError, UsageError
from grounding.memory import OUT_OF_MEMORY, is_out_of_memory

HEADER = "Where in an image each word lives: attention of vision-language models, turned into masks."
GLOBAL_OPTIONS = (
    ("--help", "show this help, or a command's"),
    ("--version", "show the version"),
    ("--debug", "show the traceback behind an error, and log more"),
    ("--max-pixels N", "open pictures of up to N pixels, and of any length; 120,000,000 without it"),
)
REFUSED = 2
BROKEN_PIPE = 141
INTERRUPTED = 130

Path = tuple[str, ...]
"""The words of a command: ("eval", "scenes")."""
Entries = tuple[EntryPoint, ...]
"""The entry points of one name: one where all is well."""

# tyro takes the program's name up to its first blank when it names the sub-command that has an option; see `_run`.
_JOINT = "\u00a0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    write_any_text()
    debug = _take_debug(arguments)
    try:
        with _picture_limit(arguments):
            return _dispatch(arguments)
    except SystemExit as stop:  # raised by tyro after a help or a usage error
        return stop.code if isinstance(stop.code, int) else REFUSED
    except KeyboardInterrupt:
        if debug:
            raise
        _complain("interrupted; finished items of a manifest are kept, and the same command continues from there")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout (`head`) has gone; redirect it, or Python complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or debug:
            raise
        _complain(f"error: {sentence}")
        return REFUSED


def _take_debug(arguments: list[str]) -> bool:
    """Remove `--debug` from the arguments before a bare `--`, and enable the logs."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" not in arguments[:end]:
        return False
    arguments[:end] = [argument for argument in arguments[:end] if argument != "--debug"]
    import logging

    logging.basicConfig(format="%(name)s: %(message)s", force=True)
    for package in ("grounding", "pipelines", "evals"):
        logging.getLogger(package).setLevel(logging.DEBUG)
    return True


def _picture_limit(arguments: list[str]) -> AbstractContextManager[None]:
    """Remove `--max-pixels N` from the arguments before a bare `--`; the context opens pictures of that size.

    Raises:
        UsageError: N is missing or no whole number from 1.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    at = next((i for i, word in enumerate(arguments[:end]) if word.partition("=")[0] == "--max-pixels"), None)
    if at is None:
        return nullcontext()
    _, joined, given = arguments[at].partition("=")
    width = 1 if joined else 2
    number = given if joined else "".join(arguments[at + 1 : at + 2])
    if not re.fullmatch("[0-9]{1,15}", number) or int(number) < 1:
        raise UsageError(f"--max-pixels {number} was given, expected a whole number of pixels, 200000000 for instance")
    del arguments[at : at + width]
    from grounding.images import larger_pictures

    return larger_pictures(int(number))


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"grounding {__version__}")
        return 0
    commands = _commands()
    path: Path = ()
    for argument in arguments:
        if path in commands or argument.startswith("-"):
            break
        path = (*path, argument)
        if not any(name[: len(path)] == path for name in commands):
            return _unknown(path, commands)
    if path not in commands:
        wanted = arguments[len(path) :] in (["--help"], ["-h"])
        print(_help(path, commands), file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else REFUSED
    return _run(path, commands[path], arguments[len(path) :])


def _commands() -> dict[Path, Entries]:
    """The registered commands; a distribution that is on the path twice is still one."""
    found: dict[Path, dict[tuple[str, str], EntryPoint]] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        found.setdefault(tuple(entry.name.split(".")), {}).setdefault((entry.value, _distribution(entry)), entry)
    return {path: tuple(same.values()) for path, same in found.items()}


def _run(path: Path, entries: Entries, rest: list[str]) -> int:
    import tyro

    # The last two: options of a command with sub-commands follow the last word, under their plain names.
    config = (
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.DisallowNone,
        tyro.conf.CascadeSubcommandArgs,
        tyro.conf.OmitArgPrefixes,
    )
    runnable = _runnable(path, entries)
    with _plain_blanks():
        command = tyro.cli(runnable, prog=_JOINT.join(("grounding", *path)), args=rest, config=config)
    return command.run()


@contextmanager
def _plain_blanks() -> Iterator[None]:
    """Print `_JOINT` as a blank on stdout and stderr, so that what is printed can be copied into a shell."""
    out, err = cast("TextIO", _PlainBlanks(sys.stdout)), cast("TextIO", _PlainBlanks(sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _PlainBlanks:
    """A text stream that writes blanks for `_JOINT` and is otherwise the one that it wraps."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._stream.write(text.replace(_JOINT, " "))


def _unknown(path: Path, commands: dict[Path, Entries]) -> int:
    known = sorted({name[len(path) - 1] for name in commands if name[: len(path) - 1] == path[:-1]})
    close = difflib.get_close_matches(path[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    _complain(f"error: '{' '.join(('grounding', *path[:-1]))}' has no command {path[-1]!r}; {hint}")
    return REFUSED


def _help(path: Path, commands: dict[Path, Entries]) -> str:
    """The help of the program, in sections by purpose, or of a group of commands, in one list."""
    below = {name: _load(commands[name]) for name in sorted(commands) if name[: len(path)] == path}
    options = GLOBAL_OPTIONS if not path else GLOBAL_OPTIONS[:1]
    sections: dict[str, list[tuple[str, str]]] = {group: [] for group in (("commands",) if path else GROUPS)}
    for name, command in below.items():
        section = "commands" if path else command.group if command.group in sections else GROUPS[-1]
        sections[section].append((" ".join(name[len(path) :]), command.summary))
    sections["options"] = list(options)
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    program = " ".join(("grounding", *path))
    lines = [f"usage: {program} COMMAND [options]", "", HEADER]
    for title, rows in sections.items():
        if rows:
            lines += ["", f"{title}:", *(f"  {name:<{width}}  {summary}" for name, summary in rows)]
    lines += ["", f"'{program} COMMAND --help' shows a command's options."]
    return "\n".join(lines)


def _load(entries: Entries) -> Command:
    """Load a command's registration; one that cannot be used is listed with the reason."""
    if len(entries) > 1:
        return Command(f"(registered more than once, {_owners(entries)})", "")
    try:
        return _registration(entries[0])
    except Exception as error:  # whatever foreign code raises at import
        return Command(f"(cannot be loaded: {' '.join(str(error).split())})", "")


def _registration(entry: EntryPoint) -> Command:
    command = entry.load()
    if not isinstance(command, Command):
        raise TypeError(f"it is {type(command).__name__}, expected a Command")
    return command


def _owners(entries: Entries) -> str:
    return "by " + " and by ".join(f"distribution {_distribution(entry)!r} ({entry.value})" for entry in entries)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"


def _runnable(path: Path, entries: Entries) -> type[Runnable]:
    """Import a command's class.

    Raises:
        UsageError: its registration or its class cannot be imported or is something else, or it has several.
    """
    if len(entries) > 1:
        raise UsageError(
            f"the command {' '.join(path)!r} is registered more than once, {_owners(entries)}: rename one of the entry "
            f"points in the group {ENTRY_POINTS!r}, or uninstall its distribution"
        )
    (entry,) = entries
    origin = entry.value
    try:
        command = _registration(entry)
        origin = command.target
        return command.load()
    except GroundingError:
        raise
    except Exception as wrong:  # whatever foreign code raises at import
        reason = " ".join(str(wrong).split())
        raise UsageError(
            f"the command {' '.join(path)!r} cannot be loaded from {origin} ({type(wrong).__name__}: {reason}): "
            "repair or uninstall its distribution"
        ) from wrong


def _sentence(error: Exception) -> str | None:
    """The sentence of an error that a user can correct; None for a bug in the program."""
    if isinstance(error, UnexpectedError):
        return None
    if isinstance(error, GroundingError):
        return str(error)
    return OUT_OF_MEMORY if is_out_of_memory(error) else None


def _complain(text: str) -> None:
    print(text, file=sys.stderr)
