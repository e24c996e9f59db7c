from __future__ import annotations

import json

import pytest

from evals.commands.hallusion import EvalHallusionCommand
from grounding.errors import GroundingError


def row(category, figure, question, truth, said, **more):
    return {
        "category": category,
        "subcategory": "chart",
        "set_id": "0",
        "figure_id": str(figure),
        "question_id": str(question),
        "visual_input": "0" if category == "VS" and figure == 0 else "1" if figure == 0 else "2",
        "gt_answer": truth,
        "model_prediction": said,
        **more,
    }


ROWS = [
    row("VD", 0, 0, "1", "Yes."),
    row("VD", 0, 1, "0", "yes"),  # wrong
    row("VD", 1, 0, "0", "No, it is not."),
    row("VD", 1, 1, "0", "No"),
    row("VS", 0, 0, "1", "I cannot know."),  # right: not knowing without a figure
    row("VS", 1, 0, "1", "I cannot know."),  # wrong: there is a figure
]


@pytest.fixture
def score(tmp_path, capsys):
    def run(rows, **options):
        (tmp_path / "results.json").write_text(json.dumps(rows))
        assert EvalHallusionCommand(responses=tmp_path / "results.json", json=True, **options).run() == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_rows_questions_and_figures(score):
    found = score(ROWS)
    assert (found["n"], found["unclear"]) == (6, 2)
    assert found["a_acc"] == round(100 * 4 / 6, 4)
    assert found["q_acc"] == round(100 * 1 / 3, 4)  # VD 0 alone is right in both its figures
    assert found["f_acc"] == round(100 * 1 / 3, 4)  # VD figure 1; VS without a figure is left out
    assert found["easy_q_acc"] == round(100 * 2 / 3, 4)
    assert found["hard_q_acc"] == round(100 * 2 / 3, 4)
    assert found["categories"]["VS"]["a_acc"] == 50


def test_hard_rows_are_those_with_an_edited_figure(score):
    """By the authors' rule: an original figure is easy whatever its number."""
    rows = [
        row("VS", 0, 0, "1", "Yes"),
        row("VS", 1, 0, "1", "Yes", visual_input="1"),
        row("VS", 2, 0, "0", "Yes"),  # edited, wrong
        row("VS", 1, 1, "1", "No", visual_input="1"),  # original, wrong
        row("VS", 2, 1, "0", "No"),
    ]
    found = score(rows)
    assert (found["easy_q_acc"], found["hard_q_acc"]) == (50, 50)
    assert score([*rows[:2], rows[4]])["easy_q_acc"] == 100


def test_without_the_rows_that_show_no_image(score):
    found = score(ROWS, images_only=True)
    assert found["n"] == 5
    assert found["categories"]["VS"]["a_acc"] == 0
    assert found["categories"]["VS"]["easy_q_acc"] is None


def test_ready_predictions_and_a_judges_verdicts(score):
    digits = [row("VD", 0, 0, "1", "1"), row("VD", 0, 1, "0", "0"), row("VD", 0, 2, "0", "2"), row("VD", 0, 3, "0", 1)]
    assert score(digits)["a_acc"] == 50
    judged = [row("VD", 0, number, "1", "no", judged=str(verdict)) for number, verdict in enumerate((1, 1, 0, 2))]
    found = score(judged, verdict_field="judged")
    assert (found["a_acc"], found["unclear"]) == (50, 1)
    assert found["variant"]["parser"] is None


def test_the_table(tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(ROWS))
    assert EvalHallusionCommand(responses=tmp_path / "results.json").run() == 0
    out = capsys.readouterr().out
    assert "answers read by the rule 'vlmevalkit'" in out
    assert "66.7" in out


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([ROWS[0], ROWS[0]], {}, "has 1 questions of a figure more than once"),
        ([{**ROWS[0], "category": "XX"}], {}, "expected 'VD' or 'VS'"),
        ([{**ROWS[0], "gt_answer": "yes"}], {}, "has the truth 'yes'"),
        ([{k: v for k, v in ROWS[0].items() if k != "set_id"}], {}, "has no 'set_id'"),
        ([ROWS[0]], {"answer_field": "mine"}, "has no 'mine'"),
        ([ROWS[0]], {"verdict_field": "model_prediction"}, "expected 0 (incorrect), 1 (correct) or 2 (unclear)"),
        ([ROWS[4]], {"images_only": True}, "shows an image: leave --images-only out"),
    ],
)
def test_wrong_results(rows, options, said, score):
    with pytest.raises(GroundingError) as refusal:
        score(rows, **options)
    assert said in str(refusal.value)
