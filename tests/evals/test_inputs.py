"""Every reader of JSON lines takes them as programs write them."""

from __future__ import annotations

import json

import pytest

from evals.amber.annotations import AmberScene, Annotations, read_annotations, read_responses
from evals.chair.score import read_captions
from evals.data import read_data
from evals.folder import read_folder
from evals.inputs import image_number_of, number_of, read_rows
from evals.mmhal import read_items
from evals.yesno.hallusion import read_results
from evals.yesno.parsers import PARSERS
from evals.yesno.pope import read_questions
from evals.yesno.pope_answers import read_answers
from grounding.errors import EvalDataError
from grounding.files import read_jsonl

TEXT = "A dog\u2028and a\u2029cat\x85 here"
SCENES = Annotations({1: AmberScene((), ()), 2: AmberScene((), ())}, {})
FIGURE = {"category": "VD", "subcategory": "chart", "set_id": "0", "figure_id": "0", "visual_input": "1"}
# Each reader's rows, and the texts that it finds in them.
READERS = {
    "captions": (
        [{"image_id": number, "caption": TEXT} for number in (1, 2)],
        lambda path: [one.text for one in read_captions(path)],
    ),
    "answers to POPE": (
        [{"question_id": number, "answer": TEXT} for number in (1, 2)],
        lambda path: [one.text for one in read_answers(path)],
    ),
    "POPE's questions": (
        [{"question_id": number, "image": "a.jpg", "text": TEXT, "label": "no"} for number in (1, 2)],
        lambda path: [one.text for one in read_questions(path).questions],
    ),
    "AMBER's annotations": (
        [{"id": number, "type": "generative", "truth": [TEXT], "hallu": []} for number in (1, 2)],
        lambda path: [one.truth[0] for one in read_annotations(path).scenes.values()],
    ),
    "responses to AMBER": (
        [{"question_id": number, "text": TEXT} for number in (1, 2)],
        lambda path: list(read_responses(path, SCENES).values()),
    ),
    "results of HallusionBench": (
        [{**FIGURE, "question_id": str(number), "gt_answer": "1", "said": TEXT} for number in (1, 2)],
        lambda path: [TEXT for one in read_results(path, PARSERS["official"], answer="said") if one.verdict],
    ),
    "responses to MMHal-Bench": (
        [{"image_content": [], "question": "?", "gt_answer": "-", "model_answer": TEXT} for _ in (1, 2)],
        lambda path: [one.answer for one in read_items(path)],
    ),
    "pictures": (
        [{"file_name": f"{number}.jpg", "said": TEXT} for number in (1, 2)],
        lambda path: [row.fields["said"] for row in read_data(str(path))],
    ),
    "a run's samples": (
        [{"id": str(number), "text": TEXT} for number in (1, 2)],
        lambda path: [one.text for one in read_folder(path.parent).samples],
    ),
    "what we append": ([{"text": TEXT} for _ in (1, 2)], lambda path: [one["text"] for one in read_jsonl(path)]),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_raw_line_separator_of_unicode_does_not_end_a_line(reader, tmp_path):
    rows, texts = READERS[reader]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert "\u2028" in path.read_text(encoding="utf-8")
    assert texts(path) == [TEXT, TEXT]


@pytest.mark.parametrize("reader", list(READERS)[:-2])
def test_objects_one_after_another_are_rows(reader, tmp_path):
    rows, texts = READERS[reader]
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert texts(path) == [TEXT, TEXT]


def test_a_broken_row_is_named_by_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a": \n')
    with pytest.raises(EvalDataError, match=r"line [45] of .*rows.jsonl is not JSON"):
        read_rows(path, "the rows")
    path.write_text('{"a": 1}\n7\n')
    with pytest.raises(EvalDataError, match=r"row 2 of .* is a int, but every row of the rows must be an object"):
        read_rows(path, "the rows")
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(EvalDataError, match="is no UTF-8 text"):
        read_rows(path, "the rows")


@pytest.mark.parametrize(
    ("value", "number", "image"),
    [
        (139, 139, 139),
        ("139", 139, 139),
        (" 0139 ", 139, 139),
        ("COCO_val2014_000000000139.jpg", None, 139),
        ("000000000139.jpg", None, 139),
        ("val2014/COCO_val2014_000000000139", None, 139),
        ("000000000139.JPEG", None, 139),
        ("photo.jpg", None, None),
        ("\u00b2", None, None),
        ("\u0661", None, None),
        ("9" * 5000, None, None),
        (10**30, None, None),
        (True, None, None),
        (1.5, None, None),
        (None, None, None),
    ],
)
def test_numbers(value, number, image):
    assert (number_of(value), image_number_of(value)) == (number, image)
