"""Have a judge rate answers: any object with a name and a method from prompt to reply, or any program.

The suite ships no judge. Each reply is on the disk before the next prompt is sent, so after a failure only the failed
prompt is repeated.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grounding.errors import JudgeError
from grounding.files import append_jsonl, read_jsonl, utf8
from grounding.runs.lock import hold

_KEY_DIGITS = 16
_SHOWN = 120


class Judge(Protocol):
    """A source of ratings."""

    @property
    def name(self) -> str:
        """The judge's name in results; replies stored under another name are not reused."""

    def ask(self, prompt: str) -> str:
        """Reply to a prompt; any exception counts as a failure."""


@dataclass(frozen=True)
class CommandJudge:
    """A program that reads the prompt from standard input and writes the reply to standard output.

    Attributes:
        command: the program and its arguments, split as a shell would; no shell runs.
        timeout: seconds after which a prompt counts as failed.
    """

    command: str
    timeout: float = 120.0

    @property
    def name(self) -> str:
        """The command."""
        return self.command

    def ask(self, prompt: str) -> str:
        """Run the program once.

        Raises:
            JudgeError: it cannot be started, times out, ends with an error, or prints nothing.
        """
        try:
            done = subprocess.run(
                shlex.split(self.command),
                input=prompt,
                capture_output=True,
                encoding="utf-8",
                errors="backslashreplace",
                timeout=self.timeout,
                check=False,
            )
        except (OSError, ValueError) as wrong:
            raise JudgeError(f"the judge {self.command!r} cannot be started ({wrong}): check the command") from wrong
        except subprocess.TimeoutExpired as wrong:
            raise JudgeError(
                f"the judge {self.command!r} took longer than {self.timeout:g} s: allow more time"
            ) from wrong
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise JudgeError(f"the judge {self.command!r} ended with {done.returncode}, saying {said[:_SHOWN]!r}")
        if not done.stdout.strip():
            raise JudgeError(f"the judge {self.command!r} said nothing on its standard output")
        return done.stdout


@dataclass(frozen=True)
class Reply:
    """A judge's reply.

    Attributes:
        key: hash of the prompt.
        text: the reply.
    """

    key: str
    text: str


def ask_all(
    prompts: Sequence[str], judge: Judge | None, kept: Path, advance: Callable[[], None] = lambda: None
) -> tuple[Reply, ...]:
    """Return the replies to every prompt, in order; stored replies are reused.

    Args:
        prompts: the prompts.
        judge: None if every reply is stored already.
        kept: file of replies, JSON lines; each is on the disk before the next prompt is sent. Without a judge, it must
            hold the replies of one judge only.
        advance: called after each reply.

    Raises:
        JudgeError: replies are missing and there is no judge, or the judge failed; earlier replies stay stored.
        OutputError: the file cannot be written, or a line of it is broken.
    """
    # Held, so that a file that cannot be written is refused before the judge is asked, and no other process writes it.
    with nullcontext() if judge is None else hold(kept.parent, kept.name):
        return _ask_all(prompts, judge, kept, advance)


def _ask_all(prompts: Sequence[str], judge: Judge | None, kept: Path, advance: Callable[[], None]) -> tuple[Reply, ...]:
    known = _kept(kept)
    names = sorted({name for name, _ in known})
    if judge is None and len(names) != 1:
        raise JudgeError(
            f"answers are rated by a judge, none was given, and {kept} holds replies of {len(names)}: give --judge, a "
            "program that reads a prompt and writes its rating"
        )
    name = judge.name if judge else names[0]
    replies = []
    for number, prompt in enumerate(prompts, 1):
        digest = _digest(prompt)
        text = known.get((name, digest))
        if text is None:
            text = _ask(prompt, judge, f"{number} of {len(prompts)}", kept)
            known[name, digest] = text
            append_jsonl(kept, {"judge": name, "prompt": digest, "reply": text})
        replies.append(Reply(digest, text))
        advance()
    return tuple(replies)


def _ask(prompt: str, judge: Judge | None, where: str, kept: Path) -> str:
    if judge is None:
        raise JudgeError(f"{kept} has no reply for answer {where}, and no judge was given: give --judge")
    try:
        return judge.ask(prompt)
    except Exception as wrong:  # a judge is user code and may raise anything
        raise JudgeError(
            f"the judge failed on answer {where} ({str(wrong).rstrip('.')}); the replies before it are kept in {kept}, "
            "and the same command goes on from there"
        ) from wrong


def _kept(file: Path) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for number, row in enumerate(read_jsonl(file), 1):
        parts: list[Any] = [row.get(name) for name in ("judge", "prompt", "reply")] if isinstance(row, dict) else [None]
        if not all(isinstance(part, str) for part in parts):
            raise JudgeError(f"line {number} of {file} is no kept reply: give another file with --out")
        found[parts[0], parts[1]] = parts[2]
    return found


def _digest(prompt: str) -> str:
    return hashlib.sha256(utf8(prompt)).hexdigest()[:_KEY_DIGITS]
