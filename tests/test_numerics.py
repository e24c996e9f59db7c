"""A model that overflows in float16 is named as such, and neither a map nor a text nor a score is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.attention import RowRequest, record
from grounding.cli import main
from grounding.errors import MethodError, ModelError
from grounding.models.llava import Llava
from grounding.models.tiny import tiny_llava
from grounding.numerics import finite_logits, overflow, refuse_overflow
from grounding.record_spec import RecordSpec
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import load_steering

LAYERS = 4  # some steering methods leave out the first two
PLACES = {"before attention": 0, "after all attention": LAYERS - 1}
NAMED = "is not finite (NaN or infinity): this model overflows in float16"
ADVICE = "--dtype bfloat16"


def overflowing(layer: int) -> tuple[Any, Any]:
    """A model whose feed-forward output of one layer exceeds float16."""
    model, processor = tiny_llava(layers=LAYERS)
    with torch.no_grad():
        model.get_decoder().layers[layer].mlp.down_proj.weight.mul_(3e5)
    return model, processor


@pytest.fixture(scope="module", params=PLACES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("overflowing")
    for part in overflowing(PLACES[request.param]):
        part.save_pretrained(found)
    return found


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))


def half(layer: int, dtype: torch.dtype = torch.float16) -> Llava:
    model, processor = overflowing(layer)
    return Llava(model.to(dtype), processor, "tiny")


def test_attention_that_is_not_finite_is_no_other_kind_of_attention(picture: Image.Image) -> None:
    vlm = half(0)
    prepared = vlm.prepare_questions([picture], ["where is it"])
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match=r"the attention of layer 1 is not finite .*float16.*bfloat16"),
        record(vlm.model, RowRequest(((prepared.length - 1,),))),
    ):
        vlm.model(**prepared.inputs)


@pytest.mark.parametrize("layer", PLACES.values(), ids=list(PLACES))
def test_maps_are_not_made_of_an_overflow(layer: int, picture: Image.Image) -> None:
    with pytest.raises(ModelError, match="not finite"):
        half(layer).maps([picture], ["the dog"], RecordSpec())
    advised = half(layer, torch.bfloat16)
    assert advised.maps([picture], ["the dog"], RecordSpec())[0].values.any()


WAYS: dict[str, tuple[Decoding, str | None]] = {
    "greedy": (Decoding(max_new_tokens=3), None),
    "beams": (Decoding(max_new_tokens=3, num_beams=2), None),
    "drawn": (Decoding(max_new_tokens=3, do_sample=True), None),
    "opera": (Decoding(max_new_tokens=3), "opera"),
    "vcd": (Decoding(max_new_tokens=3), "vcd"),
    "pai": (Decoding(max_new_tokens=3), "pai"),
    "var": (Decoding(max_new_tokens=3), "var"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layer", PLACES.values(), ids=list(PLACES))
def test_texts_are_not_made_of_an_overflow(layer: int, way: str, picture: Image.Image) -> None:
    decoding, steering = WAYS[way]
    method = None if steering is None else load_steering(steering)
    with pytest.raises(ModelError, match=r"the output of tiny is not finite .*float16.*bfloat16"):
        generate(half(layer), [picture], ["where is it"], method, decoding)


def test_finite_outputs_are_left_as_they_are(picture: Image.Image) -> None:
    vlm = Llava(*tiny_llava(), name="tiny")
    prepared = vlm.prepare_questions([picture], ["where is it"])
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "return_dict_in_generate": True}
    plain = vlm.model.generate(**prepared.inputs, **options, do_sample=False, output_logits=True).logits
    head = vlm.model.get_output_embeddings()
    hooks = len(head._forward_hooks)
    for sampling in (False, True):
        with torch.no_grad(), finite_logits(vlm.model, "tiny", sampling=sampling):
            found = vlm.model.generate(**prepared.inputs, **options, do_sample=False, output_logits=True).logits
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert len(head._forward_hooks) == hooks


def test_other_errors_keep_their_own_sentence() -> None:
    vlm = Llava(*tiny_llava(), name="tiny")
    for error in (MethodError("mine"), RuntimeError("mine")):
        with pytest.raises(type(error), match="mine"), finite_logits(vlm.model, "tiny"):
            raise error


def test_masked_tokens_are_no_overflow() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    refuse_overflow(logits, "tiny")
    for broken in (torch.nan, torch.inf):
        with pytest.raises(ModelError, match="the output of tiny"):
            refuse_overflow(logits.clone().fill_diagonal_(broken), "tiny")


def test_the_advice_is_that_of_the_number_format() -> None:
    assert ADVICE in str(overflow("it", torch.float16))
    assert "weights or inputs are broken" in str(overflow("it", torch.float32))


@pytest.fixture
def command(folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A command on the overflowing model in float16: (exit code, stdout, stderr, folder of results)."""

    def run(*words: object) -> tuple[int, str, str, Path]:
        model = ["--model", folder, "--dtype", "float16", "--device", "cpu", "--out", tmp_path / "out"]
        code = main([*map(str, words), *map(str, model)])
        return code, *capsys.readouterr(), tmp_path / "out"

    return run


def test_segment_says_it(command: Callable[..., Any], pictures: Path, tiny_segmenter: Path) -> None:
    code, out, err, _ = command("segment", pictures / "a.png", "dog", "--segmenter", tiny_segmenter)
    assert (code, out) == (2, "")
    assert NAMED in err
    assert ADVICE in err


def test_describe_says_it_of_every_image(command: Callable[..., Any], pictures: Path) -> None:
    images = (pictures / "a.png", pictures / "b.png")
    code, out, _, _ = command("describe", *images, "--max-new-tokens", "4", "--json")
    assert code == 1
    for line in out.splitlines():
        assert NAMED in json.loads(line)["error"]["sentence"]


def test_no_score_is_made_of_it(command: Callable[..., Any], pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    for number, name in enumerate("ab"):
        Image.open(pictures / f"{name}.png").save(tmp_path / "pics" / f"photo_{number}.png")
    (tmp_path / "truth.json").write_text(json.dumps({"0": ["dog"], "1": ["cat"]}))
    (tmp_path / "words.txt").write_text("dog, puppy\ncat, kitten\n")
    code, _, err, out = command(
        *("eval", "run", "chair", "--data", tmp_path / "pics", "--ground-truth", tmp_path / "truth.json"),
        *("--synonyms", tmp_path / "words.txt", "--max-new-tokens", "4"),
    )
    assert code == 2
    assert err.count("failed: ") == 2
    assert NAMED in err
    assert not (out / "scores.json").exists()
    lines = [json.loads(line) for line in next(out.glob("samples*.jsonl")).read_text().splitlines()]
    assert all(NAMED in line["error"] for line in lines)
