"""Asking somebody else to rate an answer: any function from a prompt to a reply, or any program.

No judge comes with the suite, and none is asked unless one is given. Replies are on the disk before the next
question is put, so a judge that fails half-way costs nothing but the question it failed on.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grounding.errors import JudgeError
from grounding.files import append_jsonl, read_jsonl

_KEY_DIGITS = 16
_SHOWN = 120


class Judge(Protocol):
    """Anything that can be asked."""

    @property
    def name(self) -> str:
        """What it is called in results; replies of another name are asked for again."""

    def ask(self, prompt: str) -> str:
        """The reply to a prompt; any exception means that it failed."""


@dataclass(frozen=True)
class CommandJudge:
    """A program that reads the prompt on its standard input and writes the reply.

    Attributes:
        command: the program and its arguments, as in a shell but without one.
        timeout: seconds after which it counts as failed.
    """

    command: str
    timeout: float = 120.0

    @property
    def name(self) -> str:
        """The command."""
        return self.command

    def ask(self, prompt: str) -> str:
        """Run it once.

        Raises:
            JudgeError: it cannot be started, takes too long, ends with an error, or says nothing.
        """
        try:
            done = subprocess.run(
                shlex.split(self.command),
                input=prompt,
                capture_output=True,
                text=True,
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
    """What a judge said.

    Attributes:
        key: of the judge's name and the prompt.
        text: the reply.
    """

    key: str
    text: str


def ask_all(
    prompts: Sequence[str], judge: Judge | None, kept: Path, advance: Callable[[], None] = lambda: None
) -> tuple[Reply, ...]:
    """The replies to every prompt, in order; those that are kept already are not asked for again.

    Args:
        prompts: what to ask.
        judge: whom; None is enough where every reply is kept.
        kept: JSON lines of replies, each on the disk before the next prompt is put. Without a judge, replies of any
            one judge count.
        advance: called after each reply.

    Raises:
        JudgeError: there is no judge and replies are missing, or the judge failed; what it said before is kept.
        OutputError: the file cannot be written, or a line of it is broken.
    """
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
    except Exception as wrong:  # a judge is foreign code
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
    return hashlib.sha256(prompt.encode()).hexdigest()[:_KEY_DIGITS]
