from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.commands.pope import EvalPopeCommand
from evals.yesno.confusion import Answered, score_answers
from evals.yesno.parsers import PARSERS
from evals.yesno.pope import fingerprint, read_questions
from grounding.errors import GroundingError

DATA = Path(os.environ.get("GROUNDING_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
OFFICIAL = DATA / "hallucination" / "pope"
Y, N, U = True, False, None

# answer: official, pai, lmms-eval, vlmevalkit
CASES = [
    ("Yes", Y, Y, Y, Y),
    ("No", N, N, N, N),
    ("no.", N, N, U, N),
    ("Yes, there is a dog.", Y, Y, U, Y),
    ("There is no dog.", N, N, U, N),
    ("There is not a dog.", N, N, U, U),
    ("Yes. There is no cat, though.", Y, N, U, U),  # only the first sentence counts for `official`
    ("There isn't a dog.", Y, N, U, U),
    ("NO", Y, N, N, N),
    ("I cannot tell.", Y, Y, U, U),
    ("", Y, Y, U, U),
    (" yes ", Y, Y, Y, Y),
    ("yes/no", Y, Y, U, U),
    ("No, 1,000 dogs", N, N, U, N),
]


@pytest.mark.parametrize("case", CASES, ids=[repr(case[0]) for case in CASES])
def test_the_four_rules(case):
    answer, *expected = case
    assert [PARSERS[name].read(answer).says_yes for name in PARSERS] == expected


def test_a_default_yes_is_counted_as_unparsable():
    for name in ("official", "pai"):
        assert [PARSERS[name].read(text).parsed for text in ("Yes.", "no", "A dog.", "")] == [True, True, False, False]
    for name in ("lmms-eval", "vlmevalkit"):
        assert PARSERS[name].read("A dog.").parsed is False


@given(st.text(max_size=60))
def test_every_rule_reads_every_text(text):
    for name, parser in PARSERS.items():
        reading = parser.read(text)
        assert reading.says_yes is not None or name in ("lmms-eval", "vlmevalkit")


def answers(*pairs):
    return [Answered(i, truth, says, says is not None) for i, (truth, says) in enumerate(pairs)]


def test_the_figures_by_hand():
    found = score_answers(answers((Y, Y), (Y, Y), (Y, N), (N, Y), (N, N)))
    assert found.accuracy.value == 3 / 5
    assert found.precision.value == 2 / 3
    assert found.recall.value == 2 / 3
    assert found.f1.value == pytest.approx(2 / 3)
    assert found.yes_ratio.value == 3 / 5


def test_the_yes_ratio_is_of_answers_and_not_of_labels():
    assert score_answers(answers((Y, N), (Y, N), (N, N))).yes_ratio.value == 0


def test_what_cannot_be_read_is_wrong_and_in_recall_by_the_parsers_rule():
    some = answers((Y, Y), (Y, U), (N, U))
    counted, left_out = (score_answers(some, unread_is_no=rule) for rule in (True, False))
    assert (counted.unread, counted.unparsable) == (2, 2)
    assert counted.accuracy.value == left_out.accuracy.value == 1 / 3
    assert (counted.recall.value, left_out.recall.value) == (1 / 2, 1)


def test_always_no_has_no_precision_and_fails_nowhere():
    found = score_answers(answers((Y, N), (N, N)))
    assert (found.precision.value, found.recall.value, found.f1.value) == (0, 0, 0)


@pytest.fixture
def ask(tmp_path):
    """Files of questions and answers, and the command over them."""

    def run(asked, replies, **options):
        (tmp_path / "questions.json").write_text("".join(json.dumps(row) + "\n" for row in asked))
        (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
        paths = {"questions": (tmp_path / "questions.json",), "answers": (tmp_path / "answers.jsonl",)}
        return EvalPopeCommand(**{**paths, "json": True, **options}).run()

    return run


QUESTIONS = [
    {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "a.jpg", "text": "Is there an owl in the imange?", "label": "no"},
    {"question_id": 3, "image": "b.jpg", "text": "Is there a cat in the image?", "label": "yes"},
]
ANSWERS = [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "text": "no"}, {"question_id": 3, "answer": "Hm."}]


def test_the_command(ask, capsys):
    assert ask(QUESTIONS, ANSWERS, parser="vlmevalkit") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    (split,) = found["splits"].values()
    assert (found["n"], split["accuracy"], split["recall"], split["unparsable"]) == (3, 66.6667, 50.0, 1)
    assert found["parser"] == "vlmevalkit"
    assert split["known_copy"] is False
    assert "none of the known files; 1 questions say 'imange'" in err


def test_the_table(ask, capsys):
    assert ask(QUESTIONS, ANSWERS, json=False) == 0
    assert "read by the rule 'official'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        (ANSWERS[:2], "1 of 3 questions have no answer (3)"),
        ([*ANSWERS, {"question_id": 4, "answer": "no"}], "1 answers have no question (4)"),
        ([*ANSWERS, ANSWERS[0]], "question ids more than once, the first is 1 in rows 1 and 4"),
        ([{"answer": "no"}], "has neither 'question_id' nor 'question'"),
        ([{**row, "answer": " ", "text": ""} for row in ANSWERS], "none of the 3 answers of"),
        ([{"question_id": 1, "answer": 1}], "'answer' is 1, expected text"),
    ],
)
def test_wrong_answers(replies, said, ask, capsys):
    with pytest.raises(GroundingError) as refusal:
        ask(QUESTIONS, replies)
    assert said in str(refusal.value)
    assert capsys.readouterr().out == ""


def in_order(*replies):
    """Answers as POPE's authors write them."""
    return [{"question": asked["text"], "answer": reply} for asked, reply in zip(QUESTIONS, replies, strict=False)]


def test_answers_in_the_authors_format(ask, capsys):
    """The question and the answer, in order and without an id."""
    assert ask(QUESTIONS, in_order("Yes", "No", "no")) == 0
    (split,) = json.loads(capsys.readouterr().out)["splits"].values()
    assert (split["n"], split["accuracy"]) == (3, 66.6667)


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        (in_order("Yes", "No"), "has 2 answers without ids to 3 questions"),
        ([*in_order("Yes", "No", "No")[::-1]], "row 1 of"),
        ([*in_order("Yes", "No"), {"question": "Is there a cat?", "answer": "no"}], "row 3 of"),
        ([*ANSWERS[:2], {"question": QUESTIONS[2]["text"], "answer": "no"}], "row 1 of"),
    ],
)
def test_answers_in_another_order_are_refused(replies, said, ask, capsys):
    with pytest.raises(GroundingError) as refusal:
        ask(QUESTIONS, replies)
    assert said in str(refusal.value)
    assert capsys.readouterr().out == ""


SUFFIX = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def splits(tmp_path):
    """Two question files, and the command over them and one file of answers."""
    other = [{**row, "text": row["text"].replace("dog", "cow"), "label": "no"} for row in QUESTIONS]
    paths = []
    for name, rows in (("coco_pope_random", QUESTIONS), ("coco_pope_popular", other)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(replies):
        (tmp_path / "merged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
        return EvalPopeCommand(questions=tuple(paths), answers=(tmp_path / "merged.jsonl",), json=True).run()

    run.rows = {"random": QUESTIONS, "popular": other}
    return run


@pytest.mark.parametrize("order", [("random", "popular"), ("popular", "random")])
def test_one_file_for_all_splits_as_llava_writes_it(order, splits, capsys):
    """Ids count over the splits, which follow one another in any order; only the prompts say which is which."""
    asked = [(row, name) for name in order for row in splits.rows[name]]
    replies = [
        {"question_id": number, "prompt": row["text"].replace("imange", "image") + SUFFIX, "text": row["label"]}
        for number, (row, _) in enumerate(asked)
    ]
    assert splits(replies) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["accuracy"] for one in found["splits"].values()] == [100, 100]
    assert list(found["splits"]) == ["coco_pope_random", "coco_pope_popular"]


def test_one_file_whose_rows_name_their_split(splits, capsys):
    replies = [
        {"question_id": row["question_id"], "category": name, "answer": row["label"]}
        for at in (2, 0, 1)
        for name in ("popular", "random")
        for row in [splits.rows[name][at]]
    ]
    assert splits(replies) == 0
    assert json.loads(capsys.readouterr().out)["mean"]["accuracy"] == 100


def test_one_file_that_does_not_say_its_splits_is_refused(splits, capsys):
    replies = [{"question_id": number, "answer": "yes"} for number in range(6)]
    with pytest.raises(GroundingError, match="has 6 answers to the 6 questions of 2 files, and neither 'category' nor"):
        splits(replies)
    with pytest.raises(GroundingError, match="has 3 answers to the 6 questions"):
        splits(replies[:3])
    assert capsys.readouterr().out == ""


def test_wrong_questions(ask, tmp_path):
    with pytest.raises(GroundingError, match="has the label 'maybe'"):
        ask([{**QUESTIONS[0], "label": "maybe"}], ANSWERS)
    with pytest.raises(GroundingError, match="neither --answers nor --model was given"):
        ask(QUESTIONS, ANSWERS, answers=())
    twice = {name: (tmp_path / f"{name}{end}",) * 2 for name, end in (("questions", ".json"), ("answers", ".jsonl"))}
    with pytest.raises(GroundingError, match="for the second time"):
        ask(QUESTIONS, ANSWERS, **twice)


def test_a_copy_is_told_by_what_it_asks(tmp_path):
    rows = [{**row, "text": row["text"].replace("imange", "image")} for row in reversed(QUESTIONS)]
    for name, content in (("one", QUESTIONS), ("other", rows), ("fewer", QUESTIONS[:2])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    one, other, fewer = (
        fingerprint(read_questions(tmp_path / f"{name}.json").questions) for name in ("one", "other", "fewer")
    )
    assert one == other != fewer


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"no POPE questions in {OFFICIAL}")
@pytest.mark.parametrize(
    ("file", "name", "rows", "misspelt"),
    [
        ("random", "coco random", 3000, 0),
        ("popular", "coco popular", 3000, 0),
        ("adversarial", "coco adversarial", 3000, 0),
        ("random_2910", "coco random (2,910-row copy)", 2910, 144),
    ],
)
def test_the_copies_in_circulation_are_named(file, name, rows, misspelt):
    found = read_questions(OFFICIAL / f"coco_pope_{file}.json")
    assert (found.copy, len(found.questions), found.misspelt) == (name, rows, misspelt)
    assert (found.note is None) == (rows == 3000)
    if found.note:
        assert "2,910 of the official 3,000 questions" in found.note
