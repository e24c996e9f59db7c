"""Read yes or no from a free answer by one of four published rules; the metrics depend on the rule.

* `official`: POPE's own script and LLaVA's. First sentence, commas removed; "No", "no" or "not" means no, everything
  else means yes.
* `pai`: PAI's script. The whole answer without full stops and commas; also "NO" and words that end in "n't".
* `lmms-eval`: the lower-cased answer must be exactly "yes" or "no"; anything else is wrong, and is left out of recall.
* `vlmevalkit`: punctuation removed, exactly one of the words "yes" and "no"; anything else is wrong, and counts as no.

The first two read every answer, because their default is yes. Answers read by that default are counted as unparsable:
those with neither a word of denial nor "yes".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

ParserName = Literal["official", "pai", "lmms-eval", "vlmevalkit"]

_DENIALS = frozenset({"No", "not", "no"})
_PAI_DENIALS = _DENIALS | {"NO"}
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'


@dataclass(frozen=True)
class Reading:
    """A parsed answer.

    Attributes:
        says_yes: True, False, or None if the rule reads neither; None is always a wrong answer.
        parsed: whether the answer itself decided, not the rule's default.
    """

    says_yes: bool | None
    parsed: bool


@dataclass(frozen=True)
class Parser:
    """A rule with its name.

    Attributes:
        name: as on the command line.
        read: the rule.
        unread_is_no: whether a reading of None counts as a no in recall; otherwise it is left out of recall.
    """

    name: ParserName
    read: Callable[[str], Reading]
    unread_is_no: bool = True


def read_official(answer: str) -> Reading:
    """Read as POPE's `evaluate.py` and LLaVA's `eval_pope.py` do."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return _denied_or_yes(any(word in _DENIALS for word in words), answer)


def read_pai(answer: str) -> Reading:
    """Read as PAI's `pope_ans.py` does."""
    words = answer.replace(".", "").replace(",", "").split(" ")
    return _denied_or_yes(any(word in _PAI_DENIALS or word.endswith("n't") for word in words), answer)


def read_lmms_eval(answer: str) -> Reading:
    """Read as lmms-eval's task `pope` does."""
    found = {"yes": True, "no": False}.get(answer.lower().strip())
    return Reading(found, found is not None)


def read_vlmevalkit(answer: str) -> Reading:
    """Read as VLMEvalKit's word rule does, without its optional judge.

    A punctuation mark beside a blank is removed, and so is every mark in an answer with a comma between digits; any
    other mark becomes a blank; full stops are removed unless they are inside a number.
    """
    text = answer.lower()
    thousands = _DIGIT_COMMA.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_blank or thousands else " ")
    words = _FULL_STOP.sub("", cleaned).split()
    yes, no = "yes" in words, "no" in words
    return Reading(yes, True) if yes != no else Reading(None, False)


PARSERS: Mapping[str, Parser] = {
    parser.name: parser
    for parser in (
        Parser("official", read_official),
        Parser("pai", read_pai),
        Parser("lmms-eval", read_lmms_eval, unread_is_no=False),
        Parser("vlmevalkit", read_vlmevalkit),
    )
}


def _denied_or_yes(denied: bool, answer: str) -> Reading:
    return Reading(False, True) if denied else Reading(True, "yes" in _WORD.findall(answer.lower()))
