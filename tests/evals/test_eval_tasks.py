"""What each task asks, and that a run's answers score like the same answers in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from evals.commands.amber import EvalAmberCommand
from evals.commands.chair import EvalChairCommand
from evals.commands.hallusion import EvalHallusionCommand
from evals.commands.mmhal import EvalMMHalCommand
from evals.commands.pope import EvalPopeCommand
from evals.runs import rebuild_task
from evals.task import Answer, Comparable
from evals.tasks.amber import AmberTask
from evals.tasks.chair import ChairTask
from evals.tasks.hallusion import HallusionTask
from evals.tasks.mmhal import MMHalTask
from evals.tasks.pope import PopeTask
from evals.tasks.registry import TASKS, task_class
from grounding import schema
from grounding.errors import EvalDataError, GroundingError, JudgeError, UsageError
from grounding.files import to_json


def answers(task, *texts) -> list[Answer]:
    """As a run would have them, through JSON."""
    samples = task.samples()
    assert len(samples) == len(texts)
    return [
        Answer(one.id, one.image, one.question, text, 3, True, None, json.loads(to_json(one.fields, "fields")))
        for one, text in zip(samples, texts, strict=True)
    ]


def printed(command, capsys):
    command.run()
    return json.loads(capsys.readouterr().out)


def picture(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / name)


@pytest.fixture
def chair(tmp_path):
    for number in (1, 2):
        picture(tmp_path, f"pics/COCO_val2014_{number:012d}.jpg")
    (tmp_path / "words.txt").write_text("dog, puppy\ncat, kitten\n")
    (tmp_path / "truth.json").write_text('{"1": ["dog"], "2": ["cat"]}')
    options = {"ground_truth": str(tmp_path / "truth.json"), "synonyms": str(tmp_path / "words.txt")}
    return SimpleNamespace(folder=tmp_path, options=options, task=ChairTask(**options, data=str(tmp_path / "pics")))


def test_chair_scores_a_run_like_a_file(chair, capsys):
    texts = ["A puppy and a cat.", "A kitten."]
    found = answers(chair.task, *texts)
    assert [(one.id, one.question) for one in found] == [
        ("1", "Please describe this image in detail."),
        ("2", "Please describe this image in detail."),
    ]
    file = chair.folder / "captions.jsonl"
    file.write_text("".join(json.dumps({"image_id": int(a.id), "caption": a.text}) + "\n" for a in found))
    scored = chair.task.score(found, chair.folder, 0)
    filed = printed(EvalChairCommand(**chair.options, captions=file, json=True), capsys)
    assert {**scored.data, "hashes": {}} == {**filed, "hashes": {}}
    assert (scored.data["chair_s"], scored.data["recall"]) == (50.0, 100.0)
    assert [(one["id"], one["hallucinated"]) for one in scored.details] == [("1", ["cat"]), ("2", [])]


@pytest.mark.parametrize(
    ("protocol", "words", "prompt", "limit"),
    [
        ("opera", None, "Please describe this image in detail.", 512),
        ("pai", None, "Please help me describe the image in detail.", 512),
        ("halc", None, "Please describe this image in detail.", 64),
        ("lmms-eval", "What?", "What?", 2048),
    ],
)
def test_chair_protocols(protocol, words, prompt, limit, chair):
    task = ChairTask(**chair.options, data=chair.task.data, protocol=protocol, words=words)
    assert ({one.question for one in task.samples()}, task.max_new_tokens) == ({prompt}, limit)


def test_chair_refuses_pictures_without_truth_or_id(chair):
    picture(chair.folder, "pics/COCO_val2014_000000000009.jpg")
    with pytest.raises(EvalDataError, match=r"1 of 3 image ids are not in the ground truth \(9\)"):
        chair.task.samples()
    (chair.folder / "pics" / "COCO_val2014_000000000009.jpg").rename(chair.folder / "pics" / "dog.jpg")
    with pytest.raises(EvalDataError, match=r"has no image id and its picture's name 'dog.jpg' does not end in one"):
        chair.task.samples()


@pytest.fixture
def pope(tmp_path):
    picture(tmp_path, "pics/a.jpg")
    files = []
    for split, labels in {"one": ["yes", "no"], "two": ["no", "yes"]}.items():
        rows = [
            {"question_id": n, "image": "a.jpg", "text": f"Is there a {split}{n} in the image?", "label": label}
            for n, label in enumerate(labels)
        ]
        files.append(tmp_path / f"{split}.json")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SimpleNamespace(folder=tmp_path, files=tuple(files), data=str(tmp_path / "pics"))


def test_pope_scores_a_run_like_files(pope, capsys):
    task = PopeTask(questions=pope.files, data=pope.data, protocol="llava")
    found = answers(task, "Yes.", "Yes, there is.", "No", "no idea")
    assert found[0].id == "one/0"
    assert found[0].question == "Is there a one0 in the image?\nAnswer the question using a single word or phrase."
    files = []
    for split in ("one", "two"):
        rows = [{"question_id": one.id.split("/")[1], "answer": one.text} for one in found if one.id.startswith(split)]
        files.append(pope.folder / f"{split}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = task.score(found, pope.folder, 0)
    filed = printed(EvalPopeCommand(questions=pope.files, answers=tuple(files), json=True), capsys)
    for split in filed["splits"].values():
        assert split.pop("known_copy") is False
    assert scored.data == filed
    assert scored.data["splits"]["one"]["accuracy"] == 50.0
    assert [(one["says"], one["right"]) for one in scored.details] == [
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]


def test_pope_runs_are_compared_question_by_question(pope):
    task = PopeTask(questions=pope.files, data=pope.data)
    a, b = answers(task, "Yes", "Yes", "No", "No"), answers(task, "Yes", "No", "No", "Yes")
    found = task.compare(a, b, 0).data["splits"]
    assert found["one"]["differences"]["accuracy"]["difference"] == 50.0
    assert found["one"]["right_exact"] == {"a_alone": 0, "b_alone": 1, "p": 1.0}
    assert found["two"]["differences"]["yes_ratio"]["difference"] == 50.0


def test_pope_from_rows(pope):
    rows = [
        {"image": "a.jpg", "question_id": 1, "question": "Is there a cow?", "answer": "Yes", "category": "random"},
        {"image": "a.jpg", "question_id": 1, "question": "Is there a car?", "answer": "no", "category": "popular"},
    ]
    file = pope.folder / "pics" / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = PopeTask(data=str(file), words=" Yes or no?").samples()
    assert [one.id for one in samples] == ["random/1", "popular/1"]
    assert [one.fields["truth"] for one in samples] == [True, False]
    assert samples[0].question == "Is there a cow? Yes or no?"
    with pytest.raises(EvalDataError, match="for the second time"):
        PopeTask(questions=(pope.files[0], pope.files[0]), data=pope.data).samples()


@pytest.fixture
def amber(tmp_path):
    rows = [
        {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
        {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
        {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    ]
    queries = [
        {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
        {"id": 2, "image": "AMBER_1.jpg", "query": "Is the dog wet in this image?"},
        {"id": 3, "image": "AMBER_1.jpg", "query": "Is there a cat in this image?"},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    (tmp_path / "query_all.json").write_text(json.dumps(queries))
    (tmp_path / "relation.json").write_text('{"dog": ["puppy"], "cat": ["kitten"]}')
    (tmp_path / "safe_words.txt").write_text("image\n")
    picture(tmp_path, "image/AMBER_1.jpg")
    return tmp_path


def test_amber_scores_a_run_like_a_file(amber, capsys):
    task = AmberTask(data=amber, images=str(amber / "image"), protocol="vlmevalkit", pipeline="rules")
    found = answers(task, "A puppy and a kitten.", "Yes", "no.")
    assert found[0].question == "Describe this image."
    assert found[2].question == "Is there a cat in this image?\nPlease answer yes or no."
    file = amber / "responses.json"
    file.write_text(json.dumps([{"id": int(one.id), "response": one.text} for one in found]))
    scored = task.score(found, amber, 0)
    assert json.loads(to_json(scored.data, "")) == printed(
        EvalAmberCommand(data=amber, responses=file, pipeline="rules", json=True), capsys
    )
    assert scored.data["discriminative"]["all"]["unread"] == 1
    assert (scored.details[0]["hallucinated"], scored.details[2]["right"]) == (["kitten"], False)
    lenient = AmberTask(data=amber, images=str(amber / "image"), parser="vlmevalkit", pipeline="rules")
    assert lenient.score(found, amber, 0).details[2]["right"] is True
    differs = task.compare(found, answers(task, "A puppy.", "Yes", "No"), 0).data
    assert differs["generative"]["differences"]["chair"]["difference"] == -50.0
    assert differs["discriminative"]["right_exact"]["b_alone"] == 1


def test_amber_parts(amber):
    kept = {
        part: [one.id for one in AmberTask(data=amber, images="x", part=part).samples()]
        for part in ("generative", "discriminative")
    }
    assert kept == {"generative": ["1"], "discriminative": ["2", "3"]}
    with pytest.raises(UsageError, match="--images is missing"):
        AmberTask(data=amber).samples()
    (amber / "annotations.json").write_text('[{"id": 9, "type": "relation", "truth": "no"}]')
    with pytest.raises(EvalDataError, match="3 ids are not in AMBER's annotations"):
        AmberTask(data=amber, images="x").samples()


@pytest.fixture
def hallusion(tmp_path):
    head = {"category": "VD", "subcategory": "chart", "set_id": "0", "question": "Is it higher?", "sample_note": ""}
    rows = [
        {
            **head,
            "figure_id": str(n),
            "question_id": "0",
            "gt_answer": str(n),
            "visual_input": "1",
            "filename": f"{n}.png",
        }
        for n in (0, 1)
    ]
    rows.append(
        {
            **head,
            "category": "VS",
            "figure_id": "0",
            "question_id": "0",
            "gt_answer": "1",
            "visual_input": "0",
            "filename": None,
        }
    )
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    return tmp_path, rows


def test_hallusion_scores_a_run_like_a_file(hallusion, capsys):
    folder, rows = hallusion
    task = HallusionTask(data=str(folder / "HallusionBench.json"))
    found = answers(task, "No.", "No, it is not.")
    assert task.samples()[0].picture == folder / "0.png"
    file = folder / "results.json"
    said = [{**row, "model_prediction": text} for row, text in zip(rows, ["No.", "No, it is not.", "Yes"], strict=True)]
    file.write_text(json.dumps(said))
    scored = task.score(found, folder, 0)
    assert scored.data == printed(EvalHallusionCommand(responses=file, images_only=True, json=True), capsys)
    assert (scored.data["n"], scored.data["a_acc"], scored.data["q_acc"]) == (2, 50.0, 0.0)
    assert [one["right"] for one in scored.details] == [True, False]
    differs = task.compare(found, answers(task, "No", "Yes"), 0).data
    assert differs["differences"]["a_acc"]["difference"] == 50.0


JUDGE = f"{sys.executable} -S -c \"print('Rating: 4')\""


@pytest.fixture
def mmhal(tmp_path):
    rows = [
        {
            "question_type": "attribute",
            "image_src": f"https://example.org/a/{n}_o.jpg",
            "image_content": ["Dog"],
            "question": f"What is {n}?",
            "gt_answer": "A dog.",
            "model_answer": "",
        }
        for n in range(3)
    ]
    (tmp_path / "template.json").write_text(json.dumps(rows))
    return tmp_path


def test_mmhal_without_a_judge_writes_what_a_judge_can_rate(mmhal, capsys):
    task = MMHalTask(data=str(mmhal / "template.json"))
    assert task.samples()[1].picture == mmhal / "1_o.jpg"
    found = answers(task, "A dog.", "A cat.", "A cow.")
    scored = task.score(found, mmhal, 0)
    assert (scored.data["n"], scored.data["score"], scored.data["judge"]) == (3, None, None)
    filed = EvalMMHalCommand(responses=mmhal / "responses.json", out=mmhal / "said.jsonl", judge=JUDGE, json=True)
    rated = MMHalTask(data=str(mmhal / "template.json"), judge=JUDGE).score(found, mmhal, 0)
    assert rated.data == printed(filed, capsys)
    assert rated.data["score"] == 4
    assert [one["rating"] for one in rated.details] == [4, 4, 4]


def test_mmhal_goes_on_where_a_judge_failed(mmhal):
    once = mmhal / "asked"
    code = f"import pathlib, sys; p = pathlib.Path({str(once)!r}); n = len(p.read_text()) if p.exists() else 0; "
    code += "sys.exit('dead line') if n == 2 else p.write_text('x' * (n + 1)); print('Rating: 5')"
    judge = f'{sys.executable} -S -c "{code}"'
    task = MMHalTask(data=str(mmhal / "template.json"), judge=judge)
    found = answers(task, "A dog.", "A cat.", "A cow.")
    with pytest.raises(JudgeError, match=r"the judge failed on answer 3 of 3 .*'dead line'"):
        task.score(found, mmhal, 0)
    assert len((mmhal / "replies.jsonl").read_text().splitlines()) == 2
    once.write_text("xxx")  # the line works again
    assert task.score(found, mmhal, 0).data["score"] == 5
    assert once.read_text() == "xxxx"  # only the third was asked


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (EvalAmberCommand(data=Path("x")), "--responses"),
        (EvalChairCommand(ground_truth="x", synonyms="x"), "--captions"),
        (EvalHallusionCommand(), "--responses"),
        (EvalMMHalCommand(), "--responses"),
        (EvalPopeCommand(), "--answers"),
    ],
)
def test_answers_or_a_model(command, option):
    with pytest.raises(GroundingError, match=f"neither {option} nor --model was given: give {option} to score"):
        command.run()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_protocol(name):
    kind = task_class(name)
    assert (kind.name, isinstance(kind.version, int)) == (name, True)


def test_a_task_is_made_again_from_its_options(chair, pope, amber):
    for task in (chair.task, PopeTask(questions=pope.files, data=pope.data), AmberTask(data=amber, images="x")):
        manifest = {"task": {"name": task.name, "version": task.version, "options": schema.plain(task)}}
        assert rebuild_task(json.loads(to_json(manifest, "")), "here") == task
        assert isinstance(task, Comparable)
        with pytest.raises(EvalDataError, match="is a run of version 0"):
            rebuild_task({"task": {**manifest["task"], "version": 0}}, "here")
    with pytest.raises(EvalDataError, match="there is no task 'nothing'"):
        rebuild_task({"task": {"name": "nothing"}}, "here")
