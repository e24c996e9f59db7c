from pathlib import Path

import pytest

from evals.task import Answer, Comparable
from evals.tasks.registry import task_class
from evals.tasks.scenes import SPLITS, ScenesTask, caption_scores, pope_questions, scene_lexicon
from grounding.errors import UsageError
from grounding.scenes.drawing import SHAPES
from grounding.scenes.habits import HABITS, measuring_scene

BRINGS = {habit.given: habit.then for habit in HABITS}


@pytest.fixture(scope="module")
def task():
    return ScenesTask(scenes=12, seed=4)


@pytest.fixture(scope="module")
def scenes():
    return [measuring_scene(4, index).shapes for index in range(60)]


def answered(sample, text):
    return Answer(sample.id, sample.image, sample.question, text, 1, True, None, sample.fields)


def perfect(sample):
    if sample.fields["kind"] == "yes-no":
        return answered(sample, "yes" if sample.fields["truth"] else "no")
    return answered(sample, " , ".join(f"a {shape}" for shape in sample.fields["shapes"]) + " .")


def test_lexicon_knows_every_shape_alone_and_in_the_plural():
    lexicon = scene_lexicon()
    assert lexicon.classes == set(SHAPES)
    assert lexicon.objects(("a", "cross", "and", "crosses", "red", "left")) == ("cross", "cross")


def test_truth_is_what_was_drawn(task):
    described = [sample for sample in task.samples() if sample.fields["kind"] == "describe"]
    assert len(described) == task.scenes
    for sample in described:
        drawn = measuring_scene(4, sample.fields["scene"])
        assert set(sample.fields["shapes"]) == {thing.kind.shape for thing in drawn.scene.objects}
        assert sample.picture().tobytes() == drawn.image.tobytes()


def test_ids_are_unique_and_a_scene_is_one_group(task):
    samples = task.samples()
    assert len({sample.id for sample in samples}) == len(samples)
    assert len({sample.group for sample in samples}) == task.scenes


def test_pope_rows_keep_the_rules(scenes):
    asked = pope_questions(scenes, seed=0)
    for shapes, questions in zip(scenes, asked, strict=True):
        for split in SPLITS:
            mine = [one for one in questions if one.split == split]
            assert [one.truth for one in mine] == [True, False] * (len(mine) // 2)
            assert len(mine) // 2 == min(3, len(shapes), len(SHAPES) - len(shapes))
            assert all((one.shape in shapes) == one.truth for one in mine)
            assert len({one.shape for one in mine}) == len(mine)


def test_adversarial_asks_for_what_a_broken_habit_would_bring(scenes):
    asked = pope_questions(scenes, seed=0)
    tempted = 0
    for shapes, questions in zip(scenes, asked, strict=True):
        mine = [one for one in questions if one.split == "adversarial"]
        for present, absent in zip(mine[::2], mine[1::2], strict=True):
            if present.shape in BRINGS and BRINGS[present.shape] not in shapes:
                assert absent.shape == BRINGS[present.shape]
                tempted += 1
    assert tempted > 20


def test_popular_asks_for_the_most_frequent_absent_shape(scenes):
    asked = pope_questions(scenes, seed=0)
    count = {shape: sum(shape in shapes for shapes in scenes) for shape in SHAPES}
    for shapes, questions in zip(scenes, asked, strict=True):
        absent = [one.shape for one in questions if one.split == "popular" and not one.truth]
        if absent:
            assert count[absent[0]] == max(count[shape] for shape in SHAPES if shape not in shapes)


def test_perfect_answers_score_perfectly(task):
    scored = task.score([perfect(sample) for sample in task.samples()], Path(), seed=0)
    assert (scored.data["chair_i"], scored.data["recall"]) == (0, 100)
    assert {split: scored.data["pope"][split]["accuracy"] for split in SPLITS} == dict.fromkeys(SPLITS, 100)


def test_an_invented_shape_is_counted_once(task):
    samples = task.samples()
    first = next(sample for sample in samples if sample.fields["kind"] == "describe")
    absent = next(shape for shape in SHAPES if shape not in first.fields["shapes"])
    (score,) = caption_scores([answered(first, f"a red {absent} .")])
    assert score.hallucinated == (absent,)


def test_compare_is_paired_and_signed(task):
    good = [perfect(sample) for sample in task.samples()]
    bad = [answered(sample, "yes" if sample.fields["kind"] == "yes-no" else "a star .") for sample in task.samples()]
    assert isinstance(task, Comparable)
    found = task.compare(bad, good, seed=0).data["differences"]
    assert found["pope_adversarial"][0] == pytest.approx(50)
    assert found["recall"][1] > 0


def test_task_is_registered():
    assert task_class("scenes-hallucination") is ScenesTask


def test_no_scenes_are_refused():
    with pytest.raises(UsageError, match="at least one scene"):
        ScenesTask(scenes=0)
