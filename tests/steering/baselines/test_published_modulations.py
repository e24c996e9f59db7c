"""Compare the shipped files of PAI and VAR, with larger parameters, with reference attention."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from plain_attention import attending
from reference import next_log_probabilities, without_image

from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.models.llava import Llava
from grounding.models.qwen_vl import QwenVL
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl
from grounding.record_spec import RecordSpec
from grounding.steering.base import GenerateOverrides
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import load_steering, parse_steering

LENGTH = 6


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def vlm(request):
    """Return a model that is deep enough for methods that start at layer 2."""
    if request.param == "llava":
        return Llava(*tiny_llava(layers=4), name="tiny")
    return QwenVL(*tiny_qwen2_5_vl(layers=4), name="tiny")


class ScoreRecorder:
    """Record the scores [R, V] that each token is chosen from, without changing them."""

    def __init__(self) -> None:
        self.scores: list[torch.Tensor] = []

    @contextmanager
    def applied(self, context):
        yield GenerateOverrides((self._keep,))

    def _keep(self, input_ids, scores):
        self.scores.append(torch.log_softmax(scores.double(), dim=-1))
        return scores


def recorded_scores(vlm, images, questions, method):
    """Yield per element its tokens and the normalised scores [V] that each was chosen from."""
    recorder = ScoreRecorder()
    method = replace(method, steps=(*method.steps, recorder))
    found = generate(vlm, images, questions, method, Decoding(max_new_tokens=LENGTH))
    for element, one in enumerate(found):
        yield one.token_ids, [step[element] for step in recorder.scores[: len(one.token_ids)]]


def strong(name: str, *numbers: dict):
    method = load_steering(name)
    return replace(method, steps=tuple(replace(s, **n) for s, n in zip(method.steps, numbers, strict=True)))


def expected_scores(vlm, prompt, answer, change, formula=None):
    """Yield the same scores from full passes in which the decoder attends through `change`."""
    other = without_image(vlm, prompt)
    for length in range(len(answer)):
        before = list(answer[:length])
        with attending(vlm.model, change):
            scores = next_log_probabilities(vlm.model, prompt, before)
        if formula is not None:
            scores = formula(scores, next_log_probabilities(vlm.model, other, before))
        yield torch.log_softmax(scores, dim=-1)


def assert_close(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def guided(s, u):
    out = 2.5 * (s - u) + u
    out[s < math.log(0.1) + s.max()] = -math.inf
    return out


def test_pai_edits_rows_of_generated_tokens_and_not_its_branch(vlm, images, questions) -> None:
    method = strong("pai", {"strength": 4.0}, {"gamma": 2.5})
    for image, question, (answer, scores) in zip(
        images, questions, recorded_scores(vlm, images, questions, method), strict=True
    ):
        prepared = vlm.prepare_questions([image], [question])
        keys, length = prepared.layouts[0].image, prepared.length
        moved = []

        def change(layer, logits, stream, keys=keys, length=length, moved=moved):
            if layer >= 2:
                before = torch.softmax(logits, dim=-1)
                for row in range(length, logits.shape[1]):  # rows of generated tokens
                    logits[:, row, keys] += 4.0 * logits[:, row, keys].abs()
                moved.append((torch.softmax(logits, dim=-1) - before).abs().max())
            return torch.softmax(logits, dim=-1)

        assert_close(scores, expected_scores(vlm, dict(prepared.inputs), answer, change, guided))
        assert max(moved) > 0.1


@pytest.mark.parametrize(("reading", "p", "kept"), [("keep", 0.1, 0.1), ("remove", 0.7, 0.3)])
def test_var_moves_attention_from_sinks(vlm, images, questions, reading, p, kept) -> None:
    method = strong("var", {"p": p, "reading": reading, "tau": 1.5, "visual_mass": 0.05, "rho": 0.2})
    for image, question, (answer, scores) in zip(
        images, questions, recorded_scores(vlm, images, questions, method), strict=True
    ):
        prepared = vlm.prepare_questions([image], [question])
        cells = {int(position) for position in prepared.layouts[0].image}
        moved = []

        def change(layer, logits, stream, cells=cells, length=prepared.length, moved=moved):
            weights = torch.softmax(logits, dim=-1)
            if layer < 2:
                return weights
            prompt = stream[:length]
            dims = prompt[0].abs().topk(2).indices
            phi = prompt[:, dims].abs().amax(-1) / (prompt.square().mean(-1) + 1e-6).sqrt()
            sinks = {int(position) for position in (phi >= 1.5).nonzero()[:, 0]}
            seen, bare = sorted(cells), sorted(cells - sinks)
            for head in range(len(weights)):
                for row in range(max(cells) + 1, weights.shape[1]):
                    own = weights[head, row].clone()
                    if own[seen].sum() < 0.05 or own[bare].sum() / own[seen].sum() < 0.2:
                        continue
                    freed = sum((1 - kept) * own[sink] for sink in sinks)
                    weights[head, row, list(sinks)] = kept * own[list(sinks)]
                    weights[head, row, bare] += freed * own[bare] / own[bare].sum()
                    moved.append(freed)
            return weights

        assert_close(scores, expected_scores(vlm, dict(prepared.inputs), answer, change))
        assert max(moved) > 0.1


def test_a_recording_has_the_edited_answer_and_not_the_branch(vlm, images, questions) -> None:
    prepared = vlm.prepare_questions(images, questions)
    last = tuple((prepared.length - 1,) for _ in images)
    keys = tuple(tuple(int(p) for p in layout.image) for layout in prepared.layouts)
    mass = {}
    for strength in (0.0, 4.0):
        method = strong("pai", {"strength": strength}, {})
        with record(vlm.model, RowRequest(last, keys=keys, decode=True, spec=RecordSpec(layers=(2,)))) as recording:
            found = generate(vlm, images, questions, method, Decoding(max_new_tokens=2))
        steps = max(len(one.token_ids) for one in found) - 1
        assert [len(rows) for rows in recording.decode] == [steps] * 2
        mass[strength] = recording
    assert torch.equal(mass[0.0].prefill[0], mass[4.0].prefill[0])
    assert mass[4.0].decode[0][0].sum() > 1.1 * mass[0.0].decode[0][0].sum()


@pytest.mark.parametrize("name", ["pai", "var"])
def test_shipped_modulations_read_back(name) -> None:
    method = load_steering(name)
    assert parse_steering(method.to_yaml(), name, name) == method
