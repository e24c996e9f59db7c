"""The command `grounding`: finds sub-commands by entry point, parses their options, and turns errors into sentences.

Nothing heavy is imported before a command is known, so the help is there at once. Exit codes: 0 done, 1 done but some
items failed or some check did not pass, 2 refused (wrong usage, or something the user can mend), 130 interrupted.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from grounding import __version__
from grounding.command import GROUP, Command
from grounding.errors import GroundingError

HEADER = "Where in an image each word lives: attention of vision-language models, turned into masks."
GLOBAL_OPTIONS = (
    ("--help", "show this help, or a command's"),
    ("--version", "show the version"),
    ("--debug", "show the traceback behind an error, and log more"),
)
OUT_OF_MEMORY = (
    "out of memory: lower --batch-size, choose a smaller --dtype (bfloat16), a smaller model or image, or --device cpu"
)
REFUSED = 2
BROKEN_PIPE = 141
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _take_debug(arguments)
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # tyro's way of ending after a help or a usage error
        return stop.code if isinstance(stop.code, int) else REFUSED
    except KeyboardInterrupt:
        if debug:
            raise
        _say("interrupted; the finished items of a manifest are kept, and the same command goes on from there")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has gone; Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or debug:
            raise
        _say(f"error: {sentence}")
        return REFUSED


def _take_debug(arguments: list[str]) -> bool:
    """Remove `--debug` wherever it stands before a bare `--`, and switch the logs on."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" not in arguments[:end]:
        return False
    arguments[:end] = [argument for argument in arguments[:end] if argument != "--debug"]
    import logging

    logging.basicConfig(format="%(name)s: %(message)s", force=True)
    for package in ("grounding", "pipelines", "evals"):
        logging.getLogger(package).setLevel(logging.DEBUG)
    return True


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"grounding {__version__}")
        return 0
    commands = {tuple(entry.name.split(".")): entry for entry in entry_points(group=GROUP)}
    path: tuple[str, ...] = ()
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


def _run(path: tuple[str, ...], entry: EntryPoint, rest: list[str]) -> int:
    import tyro

    command: Command = entry.load()
    kind = command.load()
    program = " ".join(("grounding", *path))
    # The last two: where a command has sub-commands, every option stands behind the last word, under its plain name.
    config = (
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.DisallowNone,
        tyro.conf.CascadeSubcommandArgs,
        tyro.conf.OmitArgPrefixes,
    )
    parsed = tyro.cli(kind, prog=program, args=rest, config=config)
    return parsed.run()


def _unknown(path: tuple[str, ...], commands: dict[tuple[str, ...], EntryPoint]) -> int:
    known = sorted(
        {name[len(path) - 1] for name in commands if len(name) >= len(path) and name[: len(path) - 1] == path[:-1]}
    )
    close = difflib.get_close_matches(path[-1], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    group = " ".join(("grounding", *path[:-1]))
    _say(f"error: '{group}' has no command {path[-1]!r}; {hint}")
    return REFUSED


def _help(path: tuple[str, ...], commands: dict[tuple[str, ...], EntryPoint]) -> str:
    """The help of the program or of a group: every command below it, one a line."""
    rows = [
        (" ".join(name[len(path) :]), _summary(commands[name]))
        for name in sorted(commands)
        if name[: len(path)] == path
    ]
    options = GLOBAL_OPTIONS if not path else GLOBAL_OPTIONS[:1]
    width = max(len(name) for name, _ in (*rows, *options))
    program = " ".join(("grounding", *path))
    lines = [f"usage: {program} COMMAND [options]", "", HEADER, "", "commands:"]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in rows]
    lines += ["", "options:"]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in options]
    lines += ["", f"'{program} COMMAND --help' shows a command's options."]
    return "\n".join(lines)


def _summary(entry: EntryPoint) -> str:
    """A command's line; one broken plug-in must not hide the others."""
    try:
        return entry.load().summary
    except (ImportError, AttributeError) as error:
        return f"(cannot be loaded: {error})"


def _sentence(error: Exception) -> str | None:
    """What to tell about an error that a user can mend; None for a fault of the program."""
    if isinstance(error, GroundingError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY
    # torch's CPU allocator has no exception class of its own.
    return OUT_OF_MEMORY if isinstance(error, RuntimeError) and "can't allocate memory" in str(error) else None


def _say(text: str) -> None:
    print(text, file=sys.stderr)
