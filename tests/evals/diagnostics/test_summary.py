from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from evals.commands.diagnose import EvalDiagnoseCommand
from evals.diagnostics.plots import INK, figures, page_svg
from evals.diagnostics.sources import from_run, from_scenes
from evals.diagnostics.summary import ObjectWord, TracedItem, read_diagnostics, summarise
from evals.diagnostics.trace import Trace
from evals.folder import read_folder
from grounding.attention.sinks import SinkRule
from grounding.errors import EvalDataError, UsageError
from grounding.files import write_json
from grounding.scenes.drawing import draw_scene
from grounding.scenes.language import DESCRIBE

WORDS = ("a ", "dog ", "and ", "a ", "hat")


def looked(number: int, tokens: int = 5) -> TracedItem:
    """A text of some of WORDS; at "dog" the image has a share of 0.6, at "hat" of 0.2, else of 0.4."""
    image = np.full((tokens, 2, 3), 0.4)
    image[1], image[4:] = 0.6, 0.2
    segments = np.stack([np.full_like(image, 0.1), image, np.full_like(image, 0.1), 0.8 - image], axis=-1)
    ends = np.cumsum([len(word) for word in WORDS[:tokens]]).tolist()
    spans = tuple(zip([0, *ends[:-1]], ends, strict=True))
    text = "".join(WORDS[:tokens])
    trace = Trace(
        text=text,
        tokens=WORDS[:tokens],
        spans=spans,
        finished=True,
        segments=segments.astype(np.float32),
        first_key=np.full((tokens, 2, 3), 0.05, np.float32),
        sink_share=np.array([[0, 0, 0], [0.1, 0.1, 0.1]], np.float32),
        sink_counts=np.array([0, 2]),
        image_keys=8,
    )
    words = [ObjectWord("dog", 2, 5, True)] + ([ObjectWord("hat", 12, 15, False)] if tokens == 5 else [])
    return TracedItem(str(number), "what?", trace, tuple(words))


def made(*found: TracedItem):
    return summarise(found, model="m", steering=None, config_hash="h", versions={}, sinks=SinkRule())


def test_figures_of_known_traces() -> None:
    found = made(looked(0), looked(1), looked(2, tokens=2))
    assert found.segments["system"] == (0.1, 0.1)
    np.testing.assert_allclose(found.segments["image"], (0.4 + 0.4 + 0.5) / 3, atol=1e-4)
    np.testing.assert_allclose(np.sum(list(found.segments.values()), axis=0), 1, atol=1e-4)
    np.testing.assert_allclose(found.curve, (0.4, 0.6, 0.4, 0.4, 0.2), atol=1e-4)
    assert found.curve_texts == (3, 3, 2, 2, 2)
    assert np.shape(found.by_token) == (2, 5)
    assert found.sink_keys == (0, 0.25)
    assert found.head_non_sink[0] == (1, 1, 1)
    np.testing.assert_allclose(found.head_non_sink[1], 1 - 0.1 / (1.3 / 3), atol=1e-4)
    assert found.real is not None
    assert found.hallucinated is not None
    assert (found.real.n, found.hallucinated.n) == (3, 2)
    np.testing.assert_allclose(found.real.mean, 0.6, atol=1e-4)
    np.testing.assert_allclose(found.hallucinated.high, 0.2, atol=1e-4)


def test_a_file_gives_back_what_was_written(tmp_path) -> None:
    found = made(looked(0), looked(1))
    assert read_diagnostics(write_json(tmp_path / "diagnostics.json", asdict(found))) == found
    data = json.loads((tmp_path / "diagnostics.json").read_text())
    write_json(tmp_path / "diagnostics.json", {**data, "curve": "steep"})
    with pytest.raises(EvalDataError, match="curve"):
        read_diagnostics(tmp_path / "diagnostics.json")


def test_figures_for_a_page_hold_no_address_and_take_its_colour() -> None:
    found = made(looked(0))
    drawn = figures(found, INK)
    assert set(drawn) == {"segments", "curve", "layers", "heads", "sinks", "objects"}
    for caption, figure in drawn.values():
        svg = page_svg(figure, caption + ' "<b>')
        assert svg.startswith("<svg viewBox=")
        assert "http" not in svg
        assert "currentColor" in svg
        assert INK not in svg
        assert '"<b>' not in svg
    plain = replace(looked(0), words=())
    assert "objects" not in figures(made(plain))


def test_truth_of_scenes_and_of_runs(tmp_path) -> None:
    scene = from_scenes(1, seed=3)[0]
    assert scene.truth
    shape = sorted(scene.truth)[0]
    assert scene.words(f"a large {shape}")[0].real
    assert scene.open().size == (384, 384)
    row = {"id": "1", "image": "a.png", "question": "q", "text": "t", "error": None}
    row |= {"mentions": ["dog", "hat"], "hallucinated": ["hat"], "missed": ["cat"]}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    item = from_run(read_folder(tmp_path))[0]
    assert item.truth == {"dog", "cat"}
    assert [(one.object, one.real) for one in item.words("A cat in a hat")] == [("cat", True), ("hat", False)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, UsageError),
        ({"scenes": 1, "run_folder": "x"}, UsageError),
        ({"scenes": 1, "tau": 0.0}, UsageError),
        ({"scenes": 1, "limit": 0}, UsageError),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error) -> None:
    with pytest.raises(error):
        EvalDiagnoseCommand(**options).run()


def test_a_model_of_few_words_is_asked_its_own_question(tmp_path) -> None:
    draw_scene(7_300_000).image.save(tmp_path / "scene.png")
    command = EvalDiagnoseCommand(
        images=(tmp_path / "scene.png",), model="starter", max_new_tokens=3, device="cpu", out=tmp_path
    )
    assert command.run() == 0
    assert [one.question for one in read_diagnostics(tmp_path / "diagnostics.json").texts] == [DESCRIBE]


def test_command_on_pictures(tmp_path, tiny_model, pictures, capsys) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = (pictures / "a.png", tmp_path / "broken.png", pictures / "b.png")
    command = EvalDiagnoseCommand(
        images=images, question="where is it", model=str(tiny_model), max_new_tokens=4, device="cpu", out=tmp_path
    )
    assert command.run() == 1  # some were left out
    found = read_diagnostics(tmp_path / "diagnostics.json")
    assert [one.id for one in found.texts] == ["a.png", "b.png"]
    assert found.real is None
    said = capsys.readouterr()
    assert "2 texts" in said.out
    assert "broken.png is left out" in said.err
