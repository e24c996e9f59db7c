"""Compare OPERA with a reference search that runs full passes and full products, without a cache."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from plain_attention import attending

from grounding.attention.recorder import record
from grounding.attention.request import RowRequest
from grounding.errors import MethodError, RecordingError
from grounding.record_spec import RecordSpec
from grounding.steering.base import GenerateOverrides
from grounding.steering.baselines.opera import OverTrust
from grounding.steering.baselines.truncation import Truncation
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import Steering, load_steering, parse_steering

LENGTH = 16
EAGER = OverTrust(beams=3, candidates=2, scale=100.0, base=1e-2, early=2, patience=2)


def method(*steps) -> Steering:
    return Steering("test", "", "", steps)


@dataclass
class ReferenceSearch:
    """Run the search; every pass reads the whole prompt and answer."""

    vlm: object
    prepared: object
    step: OverTrust
    limit: int

    def read(self, answer: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [V] after an answer, and the last layer's rows [N, N]."""
        inputs = dict(self.prepared.inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.int64)], dim=1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], inputs[name].new_full((1, len(answer)), value)], dim=1)
        kept = {}

        def change(layer, logits, stream):
            kept[layer] = torch.softmax(logits, dim=-1)
            return kept[layer]

        with torch.no_grad(), attending(self.vlm.model, change):
            logits = self.vlm.model(**inputs, use_cache=False).logits[0, -1].double()
        rows = kept[max(kept)].amax(0).double()
        return logits, rows / rows.sum(-1, keepdim=True)

    def penalty(self, answer: list[int]) -> tuple[float, int]:
        """Return the penalty of an answer that ends in a candidate, and its largest column."""
        _, rows = self.read(answer)
        start = self.prepared.length
        block = self.step.scale * rows[start:, start:]
        columns = [self.step.base * math.prod(block[j:, j].tolist()) for j in range(len(block))]
        largest = max(range(len(columns)), key=lambda j: (columns[j], -j))
        if len(answer) <= self.step.early:
            return -float(rows[-1, self.prepared.layouts[0].image].sum()), largest
        return columns[largest], largest

    def run(self) -> tuple[tuple[int, ...], int]:
        """Return the answer and the number of rollbacks."""
        step, end = self.step, self.vlm.model.generation_config.eos_token_id
        beams, scores, ended = [[] for _ in range(step.beams)], [0.0] + [-1e9] * (step.beams - 1), []
        states, history, returns, forbidden = [], [], Counter(), {}
        while True:
            found, modes = [], []
            for b, beam in enumerate(beams):
                logits, _ = self.read(beam)
                tokens = logits.topk(step.candidates).indices.tolist()
                penalties = [self.penalty([*beam, token]) for token in tokens]
                own = torch.tensor(
                    [float(logits[t]) - step.weight * p for t, (p, _) in zip(tokens, penalties, strict=True)]
                )
                own = torch.log_softmax(own.double(), dim=-1).tolist()
                found += [(scores[b] + value, b, token) for value, token in zip(own, tokens, strict=True)]
                modes.append(mode([column for _, column in penalties]))
            history.append(modes)
            column, position = mode(modes), None
            if column >= step.early and all(
                sum(entry[b] == column for entry in history) > step.patience for b in range(step.beams)
            ):
                position = next((p for p in (column + 1, column) if returns[p] < step.candidates), None)
            if position is not None:
                returns[position] += 1
                beams, scores, ended, choice = states[position]
                states, history = states[:position], history[: position + 1]
                forbidden = {p: pairs for p, pairs in forbidden.items() if p <= position}
                forbidden.setdefault(position, set()).update(choice)
                found = []
                for b, beam in enumerate(beams):
                    logits, _ = self.read(beam)
                    for parent, token in forbidden[position]:
                        if parent == b:
                            logits[token] = -math.inf
                    values = torch.log_softmax(logits, dim=-1).tolist()
                    found += [(scores[b] + value, b, token) for token, value in enumerate(values)]
            found.sort(key=lambda entry: -entry[0])
            choice, before, length = [], (beams, scores, ended), len(beams[0]) + 1
            grown, totals, ended = [], [], list(ended)
            for rank, (total, b, token) in enumerate(found[: 2 * step.beams]):
                if token == end:
                    if rank < step.beams:
                        ended.append((total / length, [*beams[b], token]))
                elif len(grown) < step.beams:
                    grown.append([*beams[b], token])
                    totals.append(total)
                    choice.append((b, token))
            ended = sorted(ended, key=lambda text: -text[0])[: step.beams]
            states.append((*before, choice))
            beams, scores = grown, totals
            done = len(ended) == step.beams and ended[-1][0] >= found[0][0] / length
            if done or length == self.limit:
                texts = ended if done else ended + [(s / length, beam) for s, beam in zip(scores, beams, strict=True)]
                return tuple(max(texts, key=lambda text: text[0])[1]), sum(returns.values())


def mode(values: list[int]) -> int:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


@pytest.fixture(scope="module")
def peaked(vlm):
    """Return a model whose last layer attends to few tokens, so that the search rolls back."""
    projection = vlm.model.get_decoder().layers[-1].self_attn.q_proj.weight
    before = projection.detach().clone()
    with torch.no_grad():
        projection *= 4
    yield vlm
    with torch.no_grad():
        projection.copy_(before)


def test_the_search_equals_one_with_whole_passes(peaked, images, questions) -> None:
    found = generate(peaked, images, questions, method(EAGER), Decoding(max_new_tokens=LENGTH))
    returns = 0
    for image, question, one in zip(images, questions, found, strict=True):
        answer, count = ReferenceSearch(peaked, peaked.prepare_questions([image], [question]), EAGER, LENGTH).run()
        assert one.token_ids == answer
        returns += count
    assert returns > 0


def test_ended_texts_compete(peaked, images, questions, monkeypatch) -> None:
    decoding = Decoding(max_new_tokens=10)
    whole = generate(peaked, images[:1], questions[:1], method(EAGER), decoding)[0]
    monkeypatch.setattr(peaked.model.generation_config, "eos_token_id", whole.token_ids[4])
    found = generate(peaked, images[:1], questions[:1], method(EAGER), decoding)[0]
    answer, _ = ReferenceSearch(peaked, peaked.prepare_questions(images[:1], questions[:1]), EAGER, 10).run()
    assert found.token_ids == answer != whole.token_ids


def test_a_search_with_weight_0_over_all_tokens_is_beam_search(vlm, images, questions) -> None:
    vocabulary = vlm.model.get_output_embeddings().weight.shape[0]
    free = OverTrust(beams=3, candidates=vocabulary, weight=0.0, patience=100)
    found = generate(vlm, images[:1], questions[:1], method(free), Decoding(max_new_tokens=2))
    assert found == generate(vlm, images[:1], questions[:1], None, Decoding(max_new_tokens=2, num_beams=3))


class ScoreRecorder:
    """Record the search's log-probabilities [W, V] without changing them."""

    def __init__(self) -> None:
        self.scores: list[torch.Tensor] = []

    @contextmanager
    def applied(self, context):
        yield GenerateOverrides((self._keep,))

    def _keep(self, input_ids, scores):
        self.scores.append(scores)
        return scores


def test_products_beyond_the_range_of_floats_stay_penalties(peaked, images, questions) -> None:
    huge, recorder = OverTrust(beams=2, candidates=2, scale=1e30, early=1, patience=100), ScoreRecorder()
    generate(peaked, images[:1], questions[:1], method(huge, recorder), Decoding(max_new_tokens=LENGTH))
    assert len(recorder.scores) == LENGTH
    for scores in recorder.scores:
        assert not scores.isnan().any()
        assert (scores.exp().sum(dim=-1) - 1).abs().max() < 1e-5


def test_incompatible_settings_are_refused(vlm, images, questions) -> None:
    decoding = Decoding(max_new_tokens=2)
    with pytest.raises(MethodError, match="draws no tokens"):
        generate(vlm, images, questions, method(EAGER), Decoding(do_sample=True))
    with pytest.raises(MethodError, match="no newest token to stream"):
        generate(vlm, images[:1], questions[:1], method(EAGER), decoding, streamer=object())
    with pytest.raises(MethodError, match="one picture at a time"):
        generate(vlm, images, questions, method(EAGER, Truncation()), decoding)
    with (
        pytest.raises(RecordingError, match="beam"),
        record(vlm.model, RowRequest(((0,), (0,)), decode=True, spec=RecordSpec(layers=(0,)))),
    ):
        generate(vlm, images, questions, method(EAGER), decoding)
    with pytest.raises(MethodError, match="patience of 2"):
        OverTrust(patience=1)


def test_the_search_restores_the_model(vlm, images, questions) -> None:
    decoding = Decoding(max_new_tokens=4)
    before = generate(vlm, images, questions, None, decoding)
    kernel = vlm.model.get_decoder().config._attn_implementation
    generate(vlm, images, questions, method(EAGER), decoding)
    assert vlm.model.get_decoder().config._attn_implementation == kernel
    assert generate(vlm, images, questions, None, decoding) == before


def test_the_shipped_file_is_the_published_method() -> None:
    shipped = load_steering("opera")
    assert shipped.steps == (OverTrust(),)
    assert parse_steering(shipped.to_yaml(), "opera", "opera") == shipped
