from __future__ import annotations

from dataclasses import replace

from grounding.methods import load_method
from grounding.runs.provenance import folder_hash, short_hash, versions
from grounding.steering.decoding import Decoding
from grounding.steering.method import parse_steering
from pipelines.provenance import describe_config, run_config


def test_the_hash_follows_what_decides_on_results(tiny_model, tmp_path):
    method = load_method("plain-mean")
    config = run_config(str(tiny_model), "mobile-sam", method, device="cpu")
    assert config.hash == run_config(str(tiny_model), "mobile-sam", method, device="cpu", dtype="float32").hash
    described = replace(method, description="other words")
    assert config.hash == run_config(str(tiny_model), "mobile-sam", described, device="cpu").hash
    others = {
        run_config(str(tiny_model), "mobile-sam", load_method("relative"), device="cpu").hash,
        run_config(str(tiny_model), "mobile-sam", method, device="cpu", dtype="bfloat16").hash,
        run_config(str(tiny_model), "facebook/sam2.1-hiera-tiny", method, device="cpu").hash,
        run_config("owner/model", "mobile-sam", method, device="cpu").hash,
    }
    assert len(others | {config.hash}) == 5


def test_a_folder_is_identified_by_its_weights_and_not_by_its_path(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(200_000))
    (tmp_path / "two" / "README.md").write_text("notes")
    assert folder_hash(tmp_path / "one") == folder_hash(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").write_bytes(bytes(199_999) + b"\x01")
    assert folder_hash(tmp_path / "one") != folder_hash(tmp_path / "two")


def test_short_hashes_do_not_depend_on_the_order_of_keys():
    assert short_hash({"a": 1, "b": 2}, 12) == short_hash({"b": 2, "a": 1}, 12)
    assert len(short_hash({}, 12)) == 12


def test_versions_name_what_numbers_depend_on():
    assert {"grounding", "python", "torch", "transformers", "numpy"} <= set(versions())


def test_another_noun_finder_is_another_configuration(tiny_model):
    config = run_config(str(tiny_model), "mobile-sam", load_method("plain-mean"), device="cpu")
    assert "nouns" not in config.plain()
    other = replace(config, nouns="spacy")
    assert other.plain() == {**config.plain(), "nouns": "spacy"}
    assert other.hash != config.hash


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
