from __future__ import annotations

from dataclasses import replace

import pytest

from grounding.errors import ModelError, SegmenterError
from grounding.methods import load_method
from grounding.runs.provenance import nouns_identity, segmenter_identity, short_hash, versions
from grounding.steering.decoding import Decoding
from grounding.steering.method import parse_steering
from pipelines.provenance import describe_config, run_config


def test_the_hash_follows_what_decides_on_results(tiny_model, hub_cache):
    for name in ("owner/model", "owner/sam"):
        hub_cache(name, "a" * 40)
    method = load_method("plain-mean")
    config = run_config(str(tiny_model), "mobile-sam", method, device="cpu")
    assert config.hash == run_config(str(tiny_model), "mobile-sam", method, device="cpu", dtype="float32").hash
    described = replace(method, description="other words")
    assert config.hash == run_config(str(tiny_model), "mobile-sam", described, device="cpu").hash
    others = {
        run_config(str(tiny_model), "mobile-sam", load_method("relative"), device="cpu").hash,
        run_config(str(tiny_model), "mobile-sam", method, device="cpu", dtype="bfloat16").hash,
        run_config(str(tiny_model), "owner/sam", method, device="cpu").hash,
        run_config("owner/model", "mobile-sam", method, device="cpu").hash,
    }
    for name in ("owner/model", "owner/sam"):
        hub_cache(name, "b" * 40)
    others.add(run_config(str(tiny_model), "owner/sam", method, device="cpu").hash)
    others.add(run_config("owner/model", "mobile-sam", method, device="cpu").hash)
    assert len(others | {config.hash}) == 7


def test_a_hub_model_that_cannot_be_found_is_refused_by_its_own_kind_of_error(tiny_model, hub_cache):
    method = load_method("plain-mean")
    with pytest.raises(ModelError, match="owner/model cannot be loaded"):
        run_config("owner/model", "mobile-sam", method, device="cpu")
    with pytest.raises(SegmenterError, match="owner/sam"):
        run_config(str(tiny_model), "owner/sam", method, device="cpu")


def test_segmenters_are_identified_by_their_weights_and_not_by_their_path(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sam_vit_b.pth").write_bytes(bytes(1000))
    names = [f"sam:vit_b:{tmp_path / folder}/sam_vit_b.pth" for folder in ("one", "two")]
    assert segmenter_identity(names[0]) == segmenter_identity(names[1])
    assert segmenter_identity(names[0])[0] == "sam:vit_b:sam_vit_b.pth"
    (tmp_path / "two" / "sam_vit_b.pth").write_bytes(bytes(500) + b"1" + bytes(499))
    assert segmenter_identity(names[0]) != segmenter_identity(names[1])
    with pytest.raises(SegmenterError, match="cannot be read"):
        segmenter_identity("sam:vit_b:/nowhere.pth")
    with pytest.raises(SegmenterError, match="known forms"):
        segmenter_identity("nonsense")


def test_short_hashes_do_not_depend_on_the_order_of_keys():
    assert short_hash({"a": 1, "b": 2}, 12) == short_hash({"b": 2, "a": 1}, 12)
    assert len(short_hash({}, 12)) == 12


def test_versions_name_what_numbers_depend_on():
    assert {"grounding", "python", "torch", "transformers", "numpy"} <= set(versions())


def test_another_noun_finder_is_another_configuration(tiny_model):
    config = run_config(str(tiny_model), "mobile-sam", load_method("plain-mean"), device="cpu")
    assert config.plain()["nouns"] == "rules"
    assert replace(config, nouns="spacy").hash != config.hash


def test_a_spacy_pipeline_is_identified_by_its_content(tmp_path):
    folder = tmp_path / "pipeline"
    (folder / "tagger").mkdir(parents=True)
    (folder / "meta.json").write_text("{}")
    (folder / "tagger" / "model").write_bytes(b"1")
    before = nouns_identity(f"spacy:{folder}")
    assert before.startswith("spacy:pipeline ")
    (folder / "tagger" / "model").write_bytes(b"2")
    assert nouns_identity(f"spacy:{folder}") != before
    assert nouns_identity("rules") == "rules"


STEERING = """
description: by measured heads
source: a test
steps:
  - step: renormalise
    gain: 2.0
    heads: {sensitivity: SENSITIVITY, rule: proportional}
"""


def test_a_sensitivity_file_that_changed_is_another_configuration(tiny_model, tmp_path):
    """A steering file only names its sensitivity file, so the file's content must be in the hash."""
    file = tmp_path / "sensitivity.yaml"
    steering = parse_steering(STEERING.replace("SENSITIVITY", str(file)), "measured", "a test")
    base = run_config(str(tiny_model), "", load_method("plain-mean"), device="cpu")

    def config_hash() -> str:
        return describe_config(base, None, steering, Decoding(), None).hash

    file.write_text("values: [[0.1]]\n")
    before = config_hash()
    assert before == config_hash()
    file.write_text("values: [[0.2]]\n")
    assert config_hash() != before
