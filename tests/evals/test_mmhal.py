from __future__ import annotations

import json
import sys

import pytest

from evals.commands.mmhal import EvalMMHalCommand
from evals.judge import CommandJudge, ask_all
from evals.mmhal import TYPES, prompt, rating, read_items, read_template, score_items
from grounding.errors import GroundingError, JudgeError


def item(number):
    return {
        "image_content": ["Dog", "Tree {x}"],
        "question": f"Question {number}?",
        "gt_answer": "A dog.",
        "model_answer": f"Answer {number}.",
    }


@pytest.fixture
def responses(tmp_path):
    (tmp_path / "responses.json").write_text(json.dumps([item(number) for number in range(10)]))
    return tmp_path / "responses.json"


class Fails:
    """A judge that rates 4 until it breaks."""

    name = "fails"

    def __init__(self, after=10**9):
        self.after, self.asked = after, []

    def ask(self, prompt):
        if len(self.asked) >= self.after:
            raise ConnectionError("the line is dead.")
        self.asked.append(prompt)
        return "Good.\nRating: 4"


def test_a_judge_that_fails_half_way_loses_nothing(responses, tmp_path):
    prompts = [prompt(one) for one in read_items(responses)]
    kept = tmp_path / "replies.jsonl"
    broken = Fails(after=6)
    with pytest.raises(JudgeError) as refusal:
        ask_all(prompts, broken, kept)
    said = str(refusal.value)
    assert "the judge failed on answer 7 of 10 (the line is dead)" in said
    assert "the same command goes on from there" in said
    assert len(kept.read_text().splitlines()) == 6
    whole = Fails()
    replies = ask_all(prompts, whole, kept)
    assert whole.asked == prompts[6:]
    assert len(replies) == 10
    assert score_items(read_items(responses), [one.text for one in replies]).score.value == 4
    again = Fails(after=0)
    assert ask_all(prompts, again, kept) == replies


def test_a_last_line_cut_off_by_a_crash_is_asked_again(responses, tmp_path):
    prompts = [prompt(one) for one in read_items(responses)]
    kept = tmp_path / "replies.jsonl"
    ask_all(prompts, Fails(), kept)
    kept.write_bytes(kept.read_bytes()[:-9])
    whole = Fails()
    assert len(ask_all(prompts, whole, kept)) == 10
    assert whole.asked == prompts[-1:]


def test_another_judge_is_asked_anew(responses, tmp_path):
    prompts = [prompt(one) for one in read_items(responses)]
    ask_all(prompts, Fails(), tmp_path / "replies.jsonl")
    other = Fails()
    other.name = "other"
    ask_all(prompts, other, tmp_path / "replies.jsonl")
    assert other.asked == prompts
    with pytest.raises(JudgeError, match="holds replies of 2"):
        ask_all(prompts, None, tmp_path / "replies.jsonl")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Rating: 6", 6),
        ("fine. rating: 0, bad", 0),
        ("Rating: 7", None),
        ("none", None),
        ("Rating: 2 or rating: 3", None),
    ],
)
def test_the_one_rating_of_a_reply(reply, expected):
    assert rating(reply) == expected


def test_the_figures_by_hand(responses):
    items = read_items(responses)
    found = score_items(items, [f"Rating: {value}" for value in (6, 5, 4, 3, 2, 1, 0, 6)] + ["?", "Rating: 4"])
    assert (found.n, found.unrated) == (10, 1)
    assert found.score.value == 31 / 10
    assert found.hallucination_rate.value == 4 / 10
    assert list(found.by_type) == list(TYPES)
    assert found.by_type["attribute"] == 3


def test_a_template_keeps_its_other_braces_and_must_have_all_places(responses, tmp_path):
    (tmp_path / "mine.txt").write_text("{contents} {question} {reference} {answer} {json}")
    one = read_items(responses)[0]
    assert prompt(one, read_template(tmp_path / "mine.txt")) == "Dog, Tree {x} Question 0? A dog. Answer 0. {json}"
    (tmp_path / "mine.txt").write_text("{question} {answer}")
    with pytest.raises(GroundingError, match=r"no place for \{contents\}"):
        read_template(tmp_path / "mine.txt")


def test_the_command_with_a_program_for_a_judge(responses, tmp_path, capsys):
    program = "import sys; print('Rating: %d' % (5 if 'Answer 3' in sys.stdin.read() else 2))"
    judge = f'{sys.executable} -S -c "{program}"'
    options = {"responses": responses, "out": tmp_path / "replies.jsonl", "json": True}
    assert EvalMMHalCommand(**options, judge=judge).run() == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["score"], found["hallucination_rate"]) == (10, 2.3, 90.0)
    assert found["judge"] == judge
    assert EvalMMHalCommand(**options).run() == 0  # everything is kept, so nobody needs to be asked
    assert json.loads(capsys.readouterr().out)["score"] == 2.3


def test_without_a_judge_nobody_is_asked(responses, tmp_path, capsys):
    with pytest.raises(JudgeError, match="none was given"):
        EvalMMHalCommand(responses=responses, out=tmp_path / "replies.jsonl").run()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "replies.jsonl").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/judge", "cannot be started"),
        ("'unclosed", "cannot be started"),
        (f"{sys.executable} -S -c 'import sys; sys.exit(\"no money\")'", "ended with 1, saying 'no money'"),
        (f"{sys.executable} -S -c ''", "said nothing"),
        (f"{sys.executable} -S -c 'import time; time.sleep(9)'", "took longer than 0.5 s"),
    ],
)
def test_programs_that_are_no_judge(command, said):
    with pytest.raises(JudgeError, match=said):
        CommandJudge(command, timeout=0.5 if "sleep" in command else 60).ask("?")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"model_answer": " "}, "has an empty 'model_answer'"), ({"image_content": "Dog"}, "expected a list")],
)
def test_wrong_responses(change, said, responses):
    responses.write_text(json.dumps([item(0), {**item(1), **change}]))
    with pytest.raises(GroundingError) as refusal:
        read_items(responses)
    assert f"row 2 of {responses}" in str(refusal.value)
    assert said in str(refusal.value)


def test_kept_replies_that_are_none(responses, tmp_path):
    (tmp_path / "replies.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(JudgeError, match=r"line 1 of .* is no kept reply"):
        ask_all(["?"], Fails(), tmp_path / "replies.jsonl")
