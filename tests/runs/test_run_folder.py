"""Folders that a run must not go into, hashes that must stay as they are, and folders of earlier versions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from evals.plan import Plan, Worker, config_of
from evals.runner import Run
from evals.task import Sample, Scored
from grounding.errors import OutputError
from grounding.runs.folder import EVALUATION, RESULTS
from grounding.runs.provenance import short_hash
from grounding.steering.decoding import Decoding
from pipelines.batch import Job
from pipelines.manifest import ManifestItem
from pipelines.provenance import DescribeConfig, RunConfig
from pipelines.runs import open_results, write_run

CONFIG = RunConfig(
    model="tiny",
    weights="abc",
    segmenter="tiny-sam",
    segmenter_weights="def",
    method="plain-mean",
    method_text="stages: []\n",
    dtype="float32",
    seed=3,
)


@dataclass(frozen=True)
class Asked:
    """Three questions about three pictures."""

    name: ClassVar[str] = "drawn"
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = 4
    prompt: ClassVar[str] = ""

    def samples(self):
        return [Sample(f"{n}", f"Scene {n}", Path(f"/pics/{n}.png"), f"is the dog {n}", {"truth": n}) for n in range(3)]

    def score(self, answers, folder, seed):
        return Scored({"texts": [answer.text for answer in answers]}, "")


PLAN = Plan("starter", None, Decoding(max_new_tokens=4), batch_size=2, device="cpu")


def test_hashes_stay_as_they_are():
    """Another value here means that no run of an earlier version is resumed."""
    assert CONFIG.hash == "4e6aa2a58885"
    assert ManifestItem("a/b.png", Path("x"), "the red dog").key(CONFIG.hash) == "f8d524bf9d77227e"
    assert ManifestItem("a/b.png", Path("x"), "the red dog", {"ref_id": 1}).key(CONFIG.hash) == "9b8f7f10314483a7"
    describe = DescribeConfig(
        **asdict(CONFIG),
        question="what is there",
        steering="pai",
        steering_text="steps: []\n",
        decoding=Decoding(max_new_tokens=9),
        threshold=0.5,
    )
    assert describe.hash == "7a1f0de7ea62"
    evaluation = {**config_of(Asked(), Asked().samples(), PLAN), "weights": "abc"}
    assert short_hash(evaluation, 12) == "4d395e5f6cb8"


def test_a_line_that_does_not_say_which_picture_it_is_about_is_done_again(tmp_path, pictures):
    """As earlier versions wrote it; it is kept, because a run keeps what other runs wrote."""
    line = {"key": "3d1a7d325da7f4dd", "image": "a.png", "expression": "the red dog", "config": CONFIG.hash}
    (tmp_path / "results.jsonl").write_text(json.dumps({**line, "segments": [], "files": [], "error": None}) + "\n")
    runs = {CONFIG.hash: {"config": {"model": "tiny"}, "seed": 3, "versions": {"torch": "2.0"}}, "0": {}}
    (tmp_path / "run.json").write_text(json.dumps({"runs": runs}))
    items = (ManifestItem("a.png", pictures / "a.png", "the red dog"),)
    job = Job(items, tmp_path, ("coco",), CONFIG, batch_size=1, resume=True)
    assert job.batches(job.done(open_results(tmp_path))) == [items]
    write_run(tmp_path, CONFIG)
    written = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert set(written) == {CONFIG.hash, "0"}
    assert list(written[CONFIG.hash]["config"]) == list(asdict(CONFIG))


def begun(folder: Path) -> Run:
    """A run whose manifest an earlier version wrote."""
    manifest = {
        "task": {"name": "drawn", "version": 1, "options": {}},
        "config": {},
        "config_hash": short_hash(config_of(Asked(), Asked().samples(), PLAN), 12),
        "samples": 3,
        "versions": {"torch": "2.0"},
        "start": "then",
        "end": None,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Run.begin(Asked(), PLAN, folder)


def answer(number: int, text: str = "", error: str | None = None) -> str:
    """A line as an earlier version wrote it."""
    fields = {"truth": number}
    said = {"text": text, "tokens": 1, "finished": error is None, "error": error, "fields": fields, "image_hash": None}
    return json.dumps({"id": str(number), "image": f"{number}.png", "question": f"is the dog {number}", **said}) + "\n"


def test_an_evaluation_of_an_earlier_version_is_resumed(tmp_path):
    (tmp_path / "samples.jsonl").write_text(answer(2, "yes") + '{"id": "1", "im')
    run = begun(tmp_path)
    assert run.manifest["start"] == "then"
    # The answer of an earlier version does not say which picture it is about.
    assert [[one.id for one in batch] for _, batch in run.left(Worker(), 2)] == [["0", "1"], ["2"]]


def test_a_worker_that_answered_a_failed_sample_again_is_merged(tmp_path):
    """A worker's file may hold two lines of one id, of which the last counts."""
    (tmp_path / "samples.0-of-2.jsonl").write_text(answer(0, error="broken") + answer(1, "no") + answer(0, "yes"))
    (tmp_path / "samples.1-of-2.jsonl").write_text(answer(2, "maybe"))
    scores, _ = begun(tmp_path).finish()
    assert scores["texts"] == ["yes", "no", "maybe"]
    assert (tmp_path / "samples.jsonl").read_text() == answer(0, "yes") + answer(1, "no") + answer(2, "maybe")
    assert not list(tmp_path.glob("samples.*-of-*.jsonl"))


def test_a_folder_of_another_kind_is_refused(tmp_path):
    evaluation, results = tmp_path / "evaluation", tmp_path / "results"
    for folder, kind in ((evaluation, EVALUATION), (results, RESULTS)):
        folder.mkdir()
        (folder / kind.description).write_text("{}")
        kind.check(folder)
        (folder / kind.records).write_text("")
        kind.check(folder)
    with pytest.raises(OutputError, match=r"holds a run of 'grounding eval' \(samples.jsonl\), expected a new folder"):
        open_results(evaluation)
    with pytest.raises(
        OutputError, match=r"holds a run of 'grounding segment', 'grounding discover' or 'grounding describe'"
    ):
        EVALUATION.check(results)
    # A folder that an earlier version wrote both kinds into.
    (evaluation / "run.json").write_text("{}")
    RESULTS.check(evaluation)


def test_files_of_other_tools_do_not_matter(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")  # a data set's, for instance
    RESULTS.check(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_and_not_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file where a folder is needed"):
        RESULTS.check(tmp_path / "file" / "out")
    RESULTS.check(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
