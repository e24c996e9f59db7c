from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.commands.report import EvalReportCommand
from evals.folder import read_folder
from evals.html.cases import worst
from evals.html.flags import flags
from evals.html.paired import paired
from evals.html.sections import sections
from grounding.errors import EvalDataError

EVIL = 'A <script>alert(1)</script> dog & a "bench"\' onload=x <img src=http://evil.example/x.png>.'
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what could be fetched or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def write_run(folder: Path, invented: int, *, text: str = "A dog near a bench. It sits.", title: str = "chair") -> Path:
    """A run over four pictures, `invented` of whose texts invent a bench; the second picture is missing."""
    (folder / "images").mkdir(parents=True)
    rows, details = [], []
    for index in range(4):
        if index != 1:
            pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{index}.png")
        wrong = ["bench"] if index < invented else []
        rows.append(
            {"id": str(index), "image": f"images/{index}.png", "question": "Describe.", "text": text, "tokens": 9}
            | {"finished": True, "error": None, "fields": {}}
        )
        details.append({"id": str(index), "mentions": ["dog", *wrong], "hallucinated": wrong, "missed": ["cat"]})
        details[-1]["length"] = 9
    for name, lines in (("samples", rows), ("details", details)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {
        "task": title,
        "n": 4,
        "chair_s": 25.0 * invented,
        "recall": 50.0,
        "intervals": {"chair_s": [12.3, 98.7], "recall": [45.6, 54.3]},
        "higher_is_better": {"chair_s": False, "recall": True},
        "truncation_curve": [{"k": k, "recall": k, "chair_i": k / 10, "chair_s": k / 2} for k in (20, 40)],
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    manifest = {"task": {"name": title}, "model": "tiny", "steering": {"name": "gains", "yaml": "gain: 2"}}
    manifest |= {"config_hash": "abcdef123456", "samples": 4, "versions": {"torch": "9.8.7"}, "seeds": {"decoding": 3}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def page(*folders: Path, **options) -> Page:
    EvalReportCommand(folders=folders, **options).run()
    text = (folders[0] / "report.html").read_text()
    assert "http" not in re.sub(r'<meta http-equiv="[^>]*>', "", text)
    return Page(text)


def test_one_run(tmp_path, capsys):
    found = page(write_run(tmp_path / "one", 2))
    for number in ("50.0", "12.3 to 98.7", "45.6 to 54.3", "n = 4"):
        assert number in found.text
    for fact in ("tiny", "gains", "abcdef123456", "torch 9.8.7", "decoding 3", "gain: 2"):
        assert fact in found.text
    assert "script" not in found.tags
    assert found.tags.count("svg") == 2  # the curve, twice
    assert all(one.startswith(("data:image/", "#")) for one in found.addresses)
    assert len([one for one in found.addresses if one.startswith("data:image/jpeg")]) == 1
    assert found.text.count("picture missing") == 1
    assert "report.html: 1 runs" in capsys.readouterr().out


def test_the_result_stands_on_top_in_a_sentence(tmp_path):
    one, two = write_run(tmp_path / "plain", 0), write_run(tmp_path / "other", 4)
    found = page(one)
    said = "plain: 0.0\u00a0% of the texts name something that is not in the picture (95 % interval 12.3 to 98.7)"
    assert f"{said}, at recall 50.0\u00a0%." in found.text
    found = page(one, two)
    assert "other has CHAIR_S 100.0\u00a0%, plain 0.0\u00a0%: a difference that chance explains" in found.text
    assert "(+100.0 (+100.0 to +100.0), p = 0.125); recall 50.0 against 50.0\u00a0%." in found.text
    assert found.text.index(said[:20]) < found.text.index("CHAIR_S\u00a0↓")


def test_a_difference_beyond_chance_is_said(tmp_path):
    from evals.html.table import Cell, FigureRow, Table
    from evals.html.verdict import verdict

    cells = (Cell("48.8"), Cell("44.6", "", "\u22124.2 (\u22127.0 to \u22121.1)", "p = 0.010", "better"))
    row = FigureRow("CHAIR_S", "%", "", cells)
    (_, said) = verdict(["plain", "gains"], [Table("", ("", ""), (row,))])
    assert said == (
        "gains has CHAIR_S 44.6\u00a0%, plain 48.8\u00a0%: better, by more than chance explains (\u22124.2 (\u22127.0 "
        "to \u22121.1), p = 0.010)."
    )
    assert verdict(["a"], [Table("", ("",), (FigureRow("length", "words", "", (Cell("9.0"),)),))]) == ()


def test_runs_are_named_by_their_folders_and_what_they_ran(tmp_path):
    one, two = write_run(tmp_path / "a" / "run", 0), write_run(tmp_path / "b" / "run", 4)
    found = page(one, two)
    assert "a/run" in found.text
    assert "b/run: tiny, gains" in found.text


def test_the_worst_cases_are_those_with_inventions(tmp_path):
    folder = write_run(tmp_path / "one", 0)
    rows = [json.loads(line) for line in (folder / "details.jsonl").read_text().splitlines()]
    rows[0] |= {"missed": ["cat", "cup", "car", "bus"]}  # says little, invents nothing
    rows[1] |= {"mentions": ["hat", "hat", "hat"], "hallucinated": ["hat"] * 3}
    rows[2] |= {"mentions": ["hat", "bench"], "hallucinated": ["hat", "bench"], "missed": []}
    (folder / "details.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [case.id for case in worst(read_folder(folder), 9)] == ["2", "1"]


def test_the_words_that_counted_are_marked_without_the_synonyms(tmp_path):
    folder = write_run(tmp_path / "one", 1, text="A puppy is seated on two pews beside its mother's bow tie.")
    rows = [json.loads(line) for line in (folder / "details.jsonl").read_text().splitlines()]
    rows[0] |= {
        "mentions": ["dog", "chair", "bench", "tie"],
        "hallucinated": ["chair", "bench", "tie"],
        "named": {"dog": ["puppy"], "chair": ["seat"], "bench": ["pew"], "tie": ["tie"]},
    }
    (folder / "details.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps({**scores, "variant": {"pipeline": "nltk"}}))
    (case,) = worst(read_folder(folder), 1)
    marked = {kind: [piece.text for piece in case.pieces if piece.kind == kind] for kind in ("wrong", "right")}
    assert marked == {"wrong": ["seated", "pews", "bow tie"], "right": ["puppy"]}


def test_on_a_phone_the_runs_stand_one_below_the_other(tmp_path):
    """Every cell says its run, and the narrow layout lets differences wrap."""
    one, two = write_run(tmp_path / "one", 0), write_run(tmp_path / "two", 4)
    page(one, two)
    text = (one / "report.html").read_text()
    assert text.count('<td data-run="two">') == text.count('<td data-run="one">') == 2
    narrow = text[text.index("@media (max-width: 40rem)") :]
    assert "white-space: normal" in narrow[: narrow.index(".plots")]
    assert "attr(data-run)" in narrow


def test_two_runs_are_paired(tmp_path):
    one, two = write_run(tmp_path / "one", 0), write_run(tmp_path / "two", 4)
    found = page(one, two)
    assert "Δ +100.0 (+100.0 to +100.0)" in found.text
    assert "p = 0.1" in found.text  # all four pictures one way: 2 of 16 swaps
    assert "Δ 0.0 (0.0 to 0.0)" in found.text
    assert "Where it looks" not in found.text


def test_a_difference_is_shown_only_where_the_counts_give_the_printed_figure(tmp_path):
    one, two = write_run(tmp_path / "one", 0), write_run(tmp_path / "two", 4)
    scores = json.loads((two / "scores.json").read_text())
    (two / "scores.json").write_text(json.dumps({**scores, "chair_s": 61.0}))
    assert set(paired(read_folder(one), read_folder(two))[""]) == {"recall"}


def test_everything_is_escaped(tmp_path):
    folder = write_run(tmp_path / "one", 2, text=EVIL, title="<b>task</b>")
    page_text = EvalReportCommand(folders=(folder,), title="<i>t</i>", json=True)
    page_text.run()
    text = (folder / "report.html").read_text()
    found = Page(text)
    assert "script" not in found.tags
    assert "b" in found.tags  # ours
    assert "i" not in found.tags
    assert "<b>task</b>" in found.text
    assert "alert(1)" in found.text
    assert "<script" not in text.lower()
    assert all(one.startswith(("data:image/", "#")) for one in found.addresses)


def test_hallucinated_words_are_marked(tmp_path):
    folder = write_run(tmp_path / "one", 1, text="Dogs near two benches")
    EvalReportCommand(folders=(folder,)).run()
    text = (folder / "report.html").read_text()
    assert '<mark class="wrong">benches</mark>' in text
    assert '<mark class="right">Dogs</mark>' in text


def test_diagnostics_are_shown_and_broken_ones_refused(tmp_path, tiny_model, pictures):
    from evals.commands.diagnose import EvalDiagnoseCommand

    folder = write_run(tmp_path / "one", 2)
    command = EvalDiagnoseCommand(
        run_folder=folder, model=str(tiny_model), steer=None, max_new_tokens=5, device="cpu", limit=4
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "steering": None}))
    assert command.run() == 1  # the missing picture is left out
    found = page(folder)
    assert "Where it looks" in found.text
    assert "Over 3 texts" in found.text
    assert found.tags.count("svg") >= 7
    assert {path.suffix for path in (folder / "diagnostics").iterdir()} == {".png", ".svg"}
    (folder / "diagnostics.json").write_text('{"task": "diagnostics"}')
    with pytest.raises(EvalDataError, match="holds no diagnostics"):
        page(folder)


def test_head_sensitivity_is_shown(tmp_path):
    from grounding.steering.sensitivity import Sensitivity

    folder = write_run(tmp_path / "one", 2)
    Sensitivity("tiny", "ablation", 12, "00", ((0.1, -0.2), (0.3, 0.4))).save(folder / "sensitivity.yaml")
    found = page(folder)
    assert "fall of the log-probability), mean over 12 samples" in found.text
    assert found.tags.count("svg") == 3


def test_yes_no_runs(tmp_path):
    for name, says in (("one", (True, True)), ("two", (True, False))):
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {"id": f"q{i}", "image": "a.jpg", "question": f"Is there a {what}?", "text": "yes" if yes else "no"}
            | {"split": "random", "truth": i == 0, "says": yes, "right": yes == (i == 0), "error": None}
            for i, (what, yes) in enumerate(zip(("dog", "hat"), says, strict=True))
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        accuracy = 50.0 if says[1] else 100.0
        split = {"n": 2, "accuracy": accuracy, "intervals": {"accuracy": [1.0, 99.0]}}
        scores = {"task": "pope", "n": 2, "mean": {"accuracy": accuracy}, "splits": {"random": split}}
        (folder / "scores.json").write_text(json.dumps(scores))
    found = page(tmp_path / "one", tmp_path / "two")
    assert "Δ +50.0" in found.text
    assert "random" in found.text
    assert "Is there a hat?" in found.text
    assert "right answer" in found.text
    assert "Is there a dog?" not in found.text


def test_amber_and_scenes_scores_become_sections():
    amber = {
        "task": "amber",
        "generative": {"n": 3, "chair": 7.1, "intervals": {"chair": [6.0, 8.0]}, "higher_is_better": {"chair": False}},
        "discriminative": {"all": {"n": 4, "accuracy": 81.5, "f1": 80.0, "unread": 0}},
    }
    assert [one.title for one in sections(amber)] == ["generative", "discriminative: all"]
    assert sections(amber)[0].better == {"chair": False}
    assert sections(amber)[1].figures["accuracy"].value == 81.5
    scene = {"n": 2, "miou": 0.8, "intervals": {"miou": [0.7, 0.9]}}
    scenes = {"task": "scenes", **scene, "kinds": {"plain": scene}, "controls": {"centre": scene}}
    assert [one.title for one in sections(scenes)] == ["", "plain", "centre"]


def test_degenerate_runs_are_flagged(tmp_path):
    looping = write_run(tmp_path / "loop", 0, text="A dog sits here. A dog sits here. A dog sits here. A dog")
    told = " ".join(flags(read_folder(looping)))
    assert "4 of 4 texts say a sentence twice" in told
    assert "Texts loop" in told
    assert flags(read_folder(write_run(tmp_path / "fine", 0))) == ()
    cut = write_run(tmp_path / "cut", 0)
    rows = [json.loads(line) for line in (cut / "samples.jsonl").read_text().splitlines()]
    for row, changes in zip(
        rows, ({"finished": False}, {"text": ""}, {"text": "", "error": "broken"}, {}), strict=True
    ):
        row.update(changes)
    (cut / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = " ".join(flags(read_folder(cut)))
    for sign in ("1 of 4 samples failed", "1 of 3 texts are empty", "1 of 3 texts were cut at the token limit"):
        assert sign in told


def test_a_folder_put_together_by_hand(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image_id": 7, "caption": "A dog and a hat."}\n')
    (tmp_path / "details.jsonl").write_text(
        '{"image_id": 7, "mentions": ["dog", "hat"], "hallucinated": ["hat"], "missed": []}\n'
    )
    found = page(tmp_path)
    assert "A dog and a hat." in found.text
    assert "picture missing" not in found.text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(EvalDataError, match="neither"):
        read_folder(tmp_path)
    with pytest.raises(EvalDataError, match="there is no folder"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "scores.json").write_text("[1]")
    with pytest.raises(EvalDataError, match="holds a list"):
        read_folder(tmp_path)
