"""Our model under lmms_eval, with a task made up here; skipped where lmms_eval is not installed."""

from __future__ import annotations

import numpy as np
import pytest
from extras import REQUIRED
from PIL import Image

if not REQUIRED:
    pytest.importorskip("lmms_eval.api.model", reason="the extra 'lmms' is not installed")

from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelRegistryV2

from evals.lmms import SteeredModel, cut_at_stop, decoding_of, manifest
from grounding.errors import ImageError, MethodError
from grounding.steering.generate import generate


@pytest.fixture(scope="module")
def model(tiny_model):
    found = SteeredModel.create_from_arg_string(f"pretrained={tiny_model},device=cpu", {"batch_size": 2})
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(3)]
    found.task_dict["stub"] = {"test": [{"pictures": [one]} for one in pictures] + [{"pictures": pictures}]}
    return found


def request(document, question="what is the dog", **settings):
    arguments = (question, {"max_new_tokens": 6, **settings}, lambda row: row["pictures"], document, "stub", "test")
    return Instance(
        request_type="generate_until",
        arguments=arguments,
        idx=0,
        metadata={"task": "stub", "doc_id": document, "repeats": 1},
    )


def test_the_registry_finds_it():
    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("grounding") is SteeredModel
    assert issubclass(SteeredModel, lmms)


def test_answers_come_in_order_and_are_those_of_generate(model):
    asked = [request(0), request(1, "red dog", max_new_tokens=3), request(2), request(0, "<image>\nwhat is the dog")]
    found = [unwrap_generation_output(one) for one in model.generate_until(asked)]
    documents = model.task_dict["stub"]["test"]
    for (text, counts), one in zip(found, asked, strict=True):
        question = one.args[0].replace("<image>\n", "")
        plain = generate(
            model.vlm, [documents[one.args[3]]["pictures"][0]], [question], None, decoding_of(one.args[1], 0)
        )
        assert text == plain[0].text.strip()
        assert counts.output_tokens == len(plain[0].token_ids) <= one.args[1]["max_new_tokens"]
    assert found[0] == found[3]


def test_a_bad_request_does_not_end_the_run(model, caplog):
    texts = [unwrap_generation_output(one)[0] for one in model.generate_until([request(0), request(3), request(1)])]
    assert texts[1] == ""
    assert texts[0]
    assert "document 3 of stub is not answered: document 3 of stub shows 3 pictures" in caplog.text
    assert "1 of 3 requests are not answered" in caplog.text


def test_what_it_does_not_do_is_refused(model):
    with pytest.raises(ImageError, match="document 3 of stub shows 3 pictures"):
        model.generate_until([request(3)])
    with pytest.raises(MethodError, match="gives no likelihoods"):
        model.loglikelihood([])
    with pytest.raises(MethodError, match="single questions"):
        model.generate_until_multi_round([])


def test_settings_and_ends():
    assert decoding_of({"temperature": 0, "top_p": None, "do_sample": True}, 7).do_sample is False
    drawn = decoding_of({"temperature": 0.5, "max_new_tokens": 9, "num_beams": None}, 7)
    assert (drawn.do_sample, drawn.temperature, drawn.max_new_tokens, drawn.seed) == (True, 0.5, 9, 7)
    assert cut_at_stop("a dog.\n\nA cat", ["\n\n", ""]) == "a dog."
    assert cut_at_stop("a dog", None) == cut_at_stop("a dog", "cat") == "a dog"
