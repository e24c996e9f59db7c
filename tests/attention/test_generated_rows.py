"""Which row belongs to which position, however a prompt is read and a text is generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from grounding.attention import Recording, RowRequest, record
from grounding.errors import RecordingError

IDS = torch.arange(5, 25)[None]
N = IDS.shape[1]
QUERIES = (N - 1, 3)
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
SHORT: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
REPEATED = torch.tensor([[5, 6, 7, 8] * 5])


def llama(*, zero: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    if zero:
        for parameter in model.parameters():
            parameter.data.zero_()
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    from transformers import GenerationMixin

    before = GenerationMixin.generate
    with torch.no_grad():
        yield
    assert GenerationMixin.generate is before


def run(model: nn.Module, action: Callable[[], Any], queries: tuple[int, ...] = (N - 1,), **options: Any) -> Recording:
    with record(model, RowRequest((queries,), **{"decode": True, **options})) as recording:
        action()
    return recording


def filled(model: Any, length: int) -> Any:
    return model(IDS[:, :length], use_cache=True).past_key_values


def continued(model: Any, cache: Any, **options: Any) -> Any:
    return model.generate(IDS, past_key_values=cache, attention_mask=torch.ones_like(IDS), **GREEDY, **options)


WAYS: dict[str, Callable[[Any], Any]] = {
    "a prompt read as N - 1 and then 1": lambda m: continued(m, filled(m, N - 1)),
    "a prompt whose last chunk is 1": lambda m: m.generate(IDS, **GREEDY, prefill_chunk_size=N - 1),
    "chunks of 1": lambda m: m.generate(IDS, **GREEDY, prefill_chunk_size=1),
    "embeddings": lambda m: m.generate(inputs_embeds=m.get_input_embeddings()(IDS), **GREEDY),
}


def read_at_once(model: Any, generated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the prompt's queries, and of the generated tokens but the last, of a pass over the whole text."""
    steps = GREEDY["max_new_tokens"] - 1
    text = torch.cat([IDS, generated[:, -steps - 1 : -1]], dim=1)
    whole = run(model, lambda: model(text), (*QUERIES, *range(N, N + steps)), decode=False).prefill[0]
    return whole[:, :, : len(QUERIES), :N], whole[:, :, len(QUERIES) :].transpose(1, 2)  # [L, steps, H, K]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("queries", [QUERIES, ()])
def test_generated_rows_are_counted_from_the_prompts_end(model: Any, name: str, queries: tuple[int, ...]) -> None:
    if not torch.equal(WAYS[name](model)[:, -4:], model.generate(IDS, **GREEDY)[:, -4:]):
        pytest.skip("this version of transformers miscounts the positions of a prompt in chunks")
    made: list[torch.Tensor] = []
    found = run(model, lambda: made.append(WAYS[name](model)), queries)
    prompt, steps = read_at_once(model, made[0])
    assert len(found.decode[0]) == GREEDY["max_new_tokens"] - 1
    torch.testing.assert_close(found.decode[0][:, :, :, 0].transpose(0, 1), steps, atol=5e-6, rtol=0)
    if queries:
        torch.testing.assert_close(found.prefill[0], prompt, atol=5e-6, rtol=0)


def test_a_cache_filled_before_the_block_counts_too(model: Any) -> None:
    plain = run(model, lambda: model.generate(IDS, **GREEDY))
    cache = filled(model, N - 1)
    found = run(model, lambda: continued(model, cache))
    torch.testing.assert_close(found.decode[0], plain.decode[0], atol=5e-6, rtol=0)

    def new_alone() -> torch.Tensor:
        cache = filled(model, 8)
        return model.generate(IDS[:, 8:], past_key_values=cache, attention_mask=torch.ones_like(IDS), **GREEDY)

    if not torch.equal(new_alone()[:, -4:], model.generate(IDS, **GREEDY)[:, -4:]):
        pytest.skip("this version of transformers takes the whole sequence with a cache")
    found = run(model, new_alone)
    torch.testing.assert_close(found.decode[0], plain.decode[0], atol=5e-6, rtol=0)


ASSISTED: dict[str, Callable[[Any], Any]] = {
    "prompt lookup": lambda m: m.generate(REPEATED, **SHORT, prompt_lookup_num_tokens=3),
    "an assistant": lambda m: m.generate(REPEATED, **SHORT, assistant_model=llama(zero=True)),
}


@pytest.mark.parametrize("name", ASSISTED)
def test_candidates_are_not_taken_for_the_prompt(name: str) -> None:
    """A model of zeros accepts every candidate of its like, so no pass after the prompt has one position."""
    zero = llama(zero=True)
    with pytest.raises(RecordingError, match=r"assisted generation .* no row per step.* rows in a pass"):
        run(zero, lambda: ASSISTED[name](zero))
    with pytest.raises(RecordingError, match=r"end of the prompt \(20 positions\) and \d candidates after .* pass of"):
        run(zero, lambda: ASSISTED[name](zero), decode=False)


def test_candidates_of_later_steps_are_left_out(model: Any) -> None:
    """Without a candidate for the prompt's end the prompt is read alone, and its rows are right."""
    from transformers import GenerationConfig

    config = GenerationConfig(prompt_lookup_num_tokens=3, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    found = run(model, lambda: model.generate(IDS, generation_config=config), decode=False)
    plain = run(model, lambda: model.generate(IDS, **GREEDY), decode=False)
    assert found.prefill[0].shape[-1] == N
    torch.testing.assert_close(found.prefill[0], plain.prefill[0], atol=5e-6, rtol=0)


def test_passes_that_do_not_say_where_the_prompt_ends_are_refused(model: Any) -> None:
    def two_passes() -> None:
        model(IDS[:, -1:], past_key_values=filled(model, N - 1))

    with pytest.raises(RecordingError, match="position 19 is read by a pass of one position"):
        run(model, two_passes)
    with pytest.raises(RecordingError, match="add the prompt's last position to the queries"):
        run(model, two_passes, ())
    assert run(model, two_passes, (N - 2,)).decode[0].shape[0] == 1, "the query says that 19 positions are the prompt"


class PromptTuned(nn.Module):
    """Virtual tokens before the prompt's embeddings, in `forward` and `generate`, as PEFT's prompt tuning puts them."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_model, self.config = base, base.config
        self.prompt = nn.Parameter(torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)))

    def get_decoder(self) -> Any:
        return self.base_model.get_decoder()

    def embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.prompt, self.base_model.get_input_embeddings()(input_ids)], dim=1)

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.base_model(inputs_embeds=self.embedded(input_ids))

    def generate(self, input_ids: torch.Tensor, **options: Any) -> Any:
        own = self.base_model.prepare_inputs_for_generation

        def prepared(ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            inputs = own(ids, *args, **kwargs)
            if kwargs.get("is_first_iteration"):
                inputs |= {"input_ids": None, "inputs_embeds": self.embedded(ids), "position_ids": None}
            return inputs

        self.base_model.prepare_inputs_for_generation = prepared
        try:
            return self.base_model.generate(input_ids=input_ids, **options)
        finally:
            del self.base_model.prepare_inputs_for_generation


class PrefixTuned(PromptTuned):
    """A key/value cache of virtual tokens given at the start, as PEFT's prefix tuning does."""

    def cache(self) -> Any:
        return self.base_model.get_decoder()(inputs_embeds=self.prompt, use_cache=True).past_key_values

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.base_model(input_ids=input_ids, past_key_values=self.virtual)

    def generate(self, input_ids: torch.Tensor, **options: Any) -> Any:
        from grounding.compat import cache_argument

        own, name = self.base_model.prepare_inputs_for_generation, cache_argument(self.base_model)

        def prepared(ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("is_first_iteration"):
                kwargs |= {name: self.virtual, "attention_mask": None, "position_ids": None}
            return own(ids, *args, **kwargs)

        self.base_model.prepare_inputs_for_generation = prepared
        try:
            return self.base_model.generate(input_ids=input_ids, **options)
        finally:
            del self.base_model.prepare_inputs_for_generation


@contextmanager
def tuned(kind: type[PromptTuned]) -> Iterator[PromptTuned]:
    found = kind(llama()).eval()
    if isinstance(found, PrefixTuned):
        found.virtual = found.cache()
    yield found


@pytest.mark.parametrize("kind", [PromptTuned, PrefixTuned])
def test_virtual_tokens_are_refused(kind: type[PromptTuned]) -> None:
    for whole in (True, False):
        with tuned(kind) as found, pytest.raises(RecordingError, match="20 positions, but its decoder reads 3 more"):
            run(found if whole else found.base_model, lambda: found.generate(IDS, **GREEDY))
    with tuned(kind) as found, pytest.raises(RecordingError, match="20 positions, but its decoder reads 3 more"):
        run(found, lambda: found(IDS), decode=False)


@pytest.mark.parametrize("kind", [PromptTuned, PrefixTuned])
def test_the_decoder_itself_counts_virtual_tokens(kind: type[PromptTuned]) -> None:
    with tuned(kind) as found:
        rows = run(found.get_decoder(), lambda: found(IDS), (N + 2,), decode=False)
    assert rows.prefill[0].shape[-1] == N + 3
    assert float(rows.prefill[0].sum(-1).min()) > 0.999
