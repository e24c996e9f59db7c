"""The samples of a run: those that fail, limits in whole groups, batches and shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from PIL import Image

from evals.plan import Plan, Worker, batch_seed, choose, worker
from evals.runner import Run
from evals.runs import RunFolder
from evals.task import Sample, Scored
from grounding.errors import EvalDataError, ImageError, UsageError
from grounding.models.load import load
from grounding.runs.attempts import cut
from grounding.steering.decoding import Decoding


@dataclass(frozen=True)
class Drawn:
    """A task whose pictures are drawn, two questions each, in groups; the picture of the last cannot be drawn."""

    name: ClassVar[str] = "drawn"
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = 4
    prompt: ClassVar[str] = ""
    count: int = 4

    def samples(self):
        def draw(number):
            if number == self.count - 1:
                raise ImageError("the pencil broke")
            return Image.new("RGB", (56, 56), (number * 40, 0, 0))

        return [
            Sample(f"{n}-{k}", f"Scene {n}", lambda n=n: draw(n), f"is the dog {k}", {"truth": n}, f"group {n}")
            for n in range(self.count)
            for k in range(2)
        ]

    def score(self, answers, folder, seed):
        return Scored({"n": len(answers), "truths": [one.fields["truth"] for one in answers]}, "")


def test_drawn_pictures_are_kept_in_the_folder(tiny_model, tmp_path):
    plan = Plan(str(tiny_model), None, Decoding(max_new_tokens=4), batch_size=3, device="cpu")
    run = Run.begin(Drawn(), plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run.work(run.left(Worker(), 3), load(str(tiny_model), "cpu"), plan, Worker())
    scores, _ = run.finish()
    assert (scores["failed"], scores["truths"]) == (2, [0, 0, 1, 1, 2, 2])
    folder = RunFolder(tmp_path / "out")
    pictures = {folder.image(one) for one in folder.answers().values() if one.error is None}
    assert sorted(Image.open(file).getpixel((0, 0))[0] for file in pictures) == [0, 40, 80]
    assert {one.error for one in folder.answers().values()} == {None, "the pencil broke"}


def test_a_question_that_cannot_be_asked_fails_alone(tiny_model, tmp_path):
    class Rude(Drawn):
        def samples(self):
            one, *rest = super().samples()[:4]
            return [one, Sample("rude", one.image, one.picture, "what <image> is", {"truth": 9}), *rest]

    plan = Plan(str(tiny_model), None, Decoding(max_new_tokens=4), batch_size=8, device="cpu")
    run = Run.begin(Rude(), plan, tmp_path / "out")
    run.work(run.left(Worker(), 8), load(str(tiny_model), "cpu"), plan, Worker())
    scores, _ = run.finish()
    assert (scores["failed"], scores["truths"]) == (1, [0, 0, 1, 1])
    assert "control token" in str(RunFolder(tmp_path / "out").answers()["rude"].error)


def test_where_everything_fails_there_is_no_score(tiny_model, tmp_path):
    plan = Plan(str(tiny_model), None, Decoding(max_new_tokens=4), batch_size=3, device="cpu")
    run = Run.begin(Drawn(count=1), plan, tmp_path / "out")
    run.work(run.left(Worker(), 3), load(str(tiny_model), "cpu"), plan, Worker())
    with pytest.raises(EvalDataError, match="none of the 2 samples was answered; the first: the pencil broke"):
        run.finish()


def test_a_limit_draws_whole_groups_in_order():
    task = Drawn(count=10)
    for limit in (1, 5, 6):
        ids = [one.id for one in choose(task, limit, 3)]
        assert ids == [one.id for one in task.samples() if one.id in ids]
        assert len(ids) == max(2, limit - limit % 2)
        assert all(f"{one[0]}-{k}" in ids for one in ids for k in range(2))
    assert choose(task, 6, 3) != choose(task, 6, 4)
    assert len(choose(task, 0, 0)) == len(choose(task, 99, 0)) == 20


def test_every_batch_goes_to_one_worker_and_draws_its_own_numbers(monkeypatch):
    drawn = cut(Drawn(count=5).samples(), 3)
    assert [len(one) for one in drawn] == [3, 3, 3, 1]
    assert len({batch_seed(0, one) for one in drawn} | {batch_seed(1, one) for one in drawn}) == 8
    found = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        found += [worker(f"{part}/3") for part in range(3)]
    assert {one.count for one in found} == {6}
    assert sorted(one.number for one in found) == list(range(6))
    assert len({one.file for one in found}) == 6


@pytest.mark.parametrize("shard", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_shards_that_make_no_sense(shard):
    with pytest.raises(UsageError, match="expected i/n with i from 0 to n - 1"):
        worker(shard)
