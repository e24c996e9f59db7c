from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from grounding.scenes.language import CELLS, LOCATE, locate_answer
from grounding.starter.dataset import NOTHING, SceneArrays, batches, fill, render
from grounding.starter.language_stage import SceneReader
from grounding.starter.model import SPECIAL_TOKENS, build_model, build_processor, build_tokenizer
from grounding.starter.packing import LENGTH, NO_LABEL, dialogue, pack
from grounding.starter.training import Schedule, train_stage
from grounding.starter.vision_stage import CellReader, labels_of, normalise

PREFIX = 2 + CELLS**2  # positions of the opening and the picture


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneArrays:
    return render(tmp_path_factory.mktemp("scenes"), 6, first_seed=3, workers=1)


def encode(text: str) -> list[int]:
    return build_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_rendering_goes_on_where_it_stopped(tmp_path: Path):
    first = render(tmp_path, 4, first_seed=0, workers=1)
    pixels = first.pixels.copy()
    (tmp_path / "block-0.done").unlink()
    first.pixels[:] = 0
    assert (render(tmp_path, 4, first_seed=0, workers=1).pixels == pixels).all()
    with pytest.raises(ValueError, match="another folder"):
        render(tmp_path, 5, first_seed=0, workers=1)


def test_cell_labels_name_the_object_under_the_cell(scenes: SceneArrays):
    labels = labels_of(scenes, np.arange(6))
    for row in range(6):
        for cell, owner in enumerate(scenes.owner[row]):
            if owner == NOTHING:
                assert labels.attributes[row, cell].tolist() == [0, 0, 0, 0]
            else:
                assert (labels.attributes[row, cell] - 1).tolist() == scenes.kinds[row, owner].tolist()
                thing = scenes.objects(row)[owner]
                assert " ".join(str(int(v)) for v in labels.centre[row, cell]) == locate_answer(thing)


def test_the_tower_sees_what_the_processor_makes(scenes: SceneArrays):
    from PIL import Image

    ours = normalise(scenes.pixels[:1])
    theirs = build_processor().image_processor(Image.fromarray(scenes.pixels[0]), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_packed_question_is_answered_as_if_it_were_asked_alone(scenes: SceneArrays):
    """The logits at every answer equal those of the whole model fed one conversation through its chat template."""
    model, processor = build_model(5).eval(), build_processor()
    pairs = dialogue(scenes.objects(0), np.random.default_rng(1))[:4]
    packed = pack([pairs], encode)
    reader = SceneReader(model, processor.tokenizer)
    with torch.inference_mode():
        features = model.model.vision_tower(normalise(scenes.pixels[:1])).last_hidden_state[:, 1:]
        embeddings = reader.language_model.embed_tokens(packed.tokens)
        joined = [embeddings[:, : PREFIX - CELLS**2], reader.projector(features), embeddings[:, PREFIX:]]
        hidden = reader.language_model(
            inputs_embeds=torch.cat(joined, 1), attention_mask=packed.mask, position_ids=packed.positions
        ).last_hidden_state
        logits = model.lm_head(hidden)
        from PIL import Image

        for number, (question, answer) in enumerate(pairs, start=1):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(
                text=[f"{prompt} {answer}"], images=[Image.fromarray(scenes.pixels[0])], return_tensors="pt"
            )
            alone = model(**inputs).logits[0]
            here = (packed.block[0] == number) & (packed.labels[0] != NO_LABEL)
            count = int(here.sum())
            assert count == len(encode(answer)) + 1
            torch.testing.assert_close(logits[0][here], alone[-count:], atol=1e-4, rtol=1e-4)


def test_questions_that_do_not_fit_are_left_out():
    long = [(LOCATE.format(expression="the small striped red star left of the large plain blue square"), "1 2")] * 30
    packed = pack([long], encode)
    assert packed.tokens.shape == (1, LENGTH)
    answers = int((packed.labels != NO_LABEL).sum())
    assert 0 < answers < 30 * 3
    assert answers % 3 == 0
    assert SPECIAL_TOKENS.index("<unk>") not in packed.tokens


@pytest.mark.parametrize("matrix_lr", [None, 1e-3])
def test_the_loss_falls_and_the_stage_resumes_to_the_same_weights(
    scenes: SceneArrays, tmp_path: Path, matrix_lr: float | None
):
    def run(folder: Path, *stops: int) -> tuple[nn.ModuleDict, list[dict[str, float]]]:
        folder.mkdir()
        for steps in stops:
            torch.manual_seed(0)
            reader = CellReader(8)
            tower = nn.Linear(3 * 16 * 16, 8)
            modules = nn.ModuleDict({"reader": reader, "tower": tower})

            def loss_of(rows: np.ndarray, reader=reader, tower=tower):
                patches = nn.functional.unfold(normalise(scenes.pixels[rows]), 16, stride=16).transpose(1, 2)
                hidden = tower(patches)
                return reader(torch.cat([hidden.mean(1, keepdim=True), hidden], 1), labels_of(scenes, rows))

            schedule = Schedule(steps=60, warmup=5, save_every=10, matrix_lr=matrix_lr)

            def interrupted(first: int, steps: int = steps):
                left = range(first, steps)
                return (rows for _, rows in zip(left, batches(6, 2, 0, first), strict=False))

            curve = train_stage("vision", modules, schedule, interrupted, loss_of, folder)
        return modules, curve

    whole, curve = run(tmp_path / "whole", 60)
    resumed, _ = run(tmp_path / "resumed", 30, 60)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert json.loads((tmp_path / "whole" / "vision.curve.json").read_text()) == curve


def test_a_stage_with_a_time_limit_ends_by_time_and_stays_ended(tmp_path: Path):
    def run() -> tuple[nn.Linear, list[dict[str, float]]]:
        torch.manual_seed(0)
        module = nn.Linear(1, 1)
        schedule = Schedule(steps=10**9, warmup=1, seconds=0.2)
        ones = itertools.repeat(torch.ones(1, 1))
        return module, train_stage(
            "limited",
            nn.ModuleDict({"m": module}),
            schedule,
            lambda first: ones,
            lambda x: (module(x).sum(), {}),
            tmp_path,
        )

    ended, curve = run()
    again, same = run()
    assert curve == same
    assert 1 < curve[-1]["step"] < 10**9
    assert 0.2 <= curve[-1]["seconds"] < 20
    torch.testing.assert_close(again.weight, ended.weight)


def test_the_learning_rate_falls_by_steps_or_by_time():
    schedule = Schedule(steps=1000, warmup=10, seconds=100.0)
    assert schedule.share(4) == 0.5
    assert schedule.share(20, elapsed=50.0) == pytest.approx(schedule.share(505, elapsed=0.0), abs=0.01)
    assert schedule.share(20, elapsed=100.0) == pytest.approx(0.01)


def test_matrices_are_filled_up_to_a_row_and_completed_later(tmp_path: Path):
    layout = {"row": ((), np.float32)}
    fill(tmp_path, 1100, layout, _draw_rows, workers=1, upto=400)
    assert sorted(path.name for path in tmp_path.glob("*.done")) == ["block-0.done"]
    assert (fill(tmp_path, 1100, layout, _draw_rows, workers=1)["row"] == np.arange(1100)).all()


def _draw_rows(start: int, stop: int) -> dict[str, np.ndarray]:
    return {"row": np.arange(start, stop, dtype=np.float32)}
