"""Each private API of a dependency: what the library relies on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from grounding import compat
from grounding.models.tiny import TINY, tiny_llava, tiny_qwen2_5_vl
from grounding.models.tiny.blip import tiny_blip2
from grounding.models.tiny.phi import tiny_phi4_multimodal


def test_a_config_says_its_kernels_name() -> None:
    model = tiny_llava()[0]
    assert compat.kernel_name(model.get_decoder().config) == "sdpa"
    model.set_attn_implementation("eager")
    assert compat.kernel_name(model.get_decoder().config) == "eager"
    assert compat.kernel_name(SimpleNamespace(_attn_implementation=None)) == "eager"


def test_known_kernels_and_their_masks() -> None:
    assert {"sdpa", "flash_attention_2"} <= set(compat.known_kernels())
    assert compat.is_flash("flash_attention_2")
    assert not any(compat.is_flash(name) for name in ("sdpa", "eager", "nonsense"))


def test_the_sdpa_kernel_takes_an_additive_mask_per_head() -> None:
    query, key = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    mask = torch.randn(1, 2, 3, 3)
    found = compat.sdpa_kernel()(nn.Identity(), query, key, key, mask, scaling=0.5)[0]
    expected = (query @ key.transpose(-1, -2) * 0.5 + mask).softmax(-1) @ key
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_the_commit_of_a_hub_model_is_the_one_that_main_means(hub_cache) -> None:
    for commit in ("a" * 40, "b" * 40):
        hub_cache("owner/model", commit)
        assert compat.hub_commit("owner/model") == commit
    with pytest.raises(OSError, match="cached files"):
        compat.hub_commit("owner/other")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_every_look_up_of_a_kernel_is_wrapped_once_and_undone(kernel: str) -> None:
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = tiny_llava()[0]
    model.set_attn_implementation(kernel)
    before = AttentionInterface.get_interface, AttentionInterface.__getitem__
    looked_up: list[str] = []

    def wrap(name: str, found: compat.Kernel) -> compat.Kernel:
        def wrapped(*args: Any, **options: Any) -> Any:
            looked_up.append(name)
            return found(*args, **options)

        return wrapped

    def fail_inside() -> None:
        with torch.no_grad(), compat.looked_up_kernels(wrap):
            model(input_ids=torch.arange(5, 9)[None])
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not compat.sdpa_kernel()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert looked_up == [kernel] * len(model.get_decoder().layers)
    assert (AttentionInterface.get_interface, AttentionInterface.__getitem__) == before
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is compat.sdpa_kernel()


def test_a_wrapped_kernel_is_kept_while_it_is_registered_and_by_what_it_depends_on() -> None:
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def default() -> None: ...

    def first() -> None: ...

    def second() -> None: ...

    asked: list[str] = []
    is_on = True

    def wrap(name: str, kernel: compat.Kernel) -> Any:
        asked.append(name)
        return (name, kernel) if is_on else kernel

    def look_up(name: str | None = "own", registry: Any = ALL_ATTENTION_FUNCTIONS) -> Any:
        return registry.get_interface(name, default)

    before = dict(vars(AttentionInterface))
    with compat.looked_up_kernels(wrap, lambda: is_on):
        for _ in range(2):
            assert look_up("eager") == ("eager", default)
            assert look_up(None) == ("eager", default)
        assert asked == ["eager", "eager"]
        with pytest.raises(KeyError):
            look_up()
        try:
            AttentionInterface.register(key="own", value=first)
            assert look_up() == ("own", first)
            assert look_up() == ("own", first)
            ALL_ATTENTION_FUNCTIONS.register("own", second)
            assert look_up() == ("own", second)
            ALL_ATTENTION_FUNCTIONS["own"] = first
            assert look_up() == ("own", first)
            assert look_up(registry=AttentionInterface()) == ("own", second)
            is_on = False
            assert look_up() is first
            del ALL_ATTENTION_FUNCTIONS["own"]
            is_on = True
            assert look_up() == ("own", second)
            AttentionInterface._global_mapping["own"] = first
            assert look_up() == ("own", first), "whatever way the registry was changed"
        finally:
            AttentionInterface._global_mapping.pop("own", None)
    assert dict(vars(AttentionInterface)) == before
    assert "own" not in ALL_ATTENTION_FUNCTIONS


def test_compiled_modules_are_recognised() -> None:
    module = nn.Linear(2, 2)
    assert not compat.is_compiled(module)
    assert compat.is_compiled(torch.compile(nn.Linear(2, 2)))  # type: ignore[arg-type]
    module.compile()
    assert compat.is_compiled(module)


def test_compiling_in_place_is_watched_inside_the_block_alone() -> None:
    seen: list[nn.Module] = []
    module, own = nn.Linear(2, 2), nn.Module.compile
    with compat.watched_compile(seen.append):
        module.compile(backend="eager")
    assert seen == [module]
    assert compat.is_compiled(module)
    assert nn.Module.compile is own


def test_the_cache_argument_is_one_that_the_forward_takes() -> None:
    from transformers import DynamicCache

    decoder = tiny_llava()[0].get_decoder()
    cache = DynamicCache(config=decoder.config)
    with torch.no_grad():
        decoder(input_ids=torch.arange(5, 9)[None], use_cache=True, **{compat.cache_argument(decoder): cache})
    assert cache.get_seq_length() == 4


def test_a_language_models_attention_is_found_in_the_output_of_the_model_around_it() -> None:
    own = (torch.ones(1),)
    assert compat.decoder_attentions(SimpleNamespace(attentions=own)) is own
    whole, _ = tiny_blip2()
    whole.set_attn_implementation("eager")
    with torch.no_grad():
        pixels, ids = torch.zeros(1, 3, 56, 56), torch.tensor([[whole.config.image_token_id] * 6 + [5]])
        output = whole(pixel_values=pixels, input_ids=ids, output_attentions=True)
    assert [one.shape for one in compat.decoder_attentions(output)] == [(1, 4, 7, 7)] * 2


def test_a_tower_that_captures_its_layers_is_hooked_once() -> None:
    model, processor = tiny_phi4_multimodal()
    compat.install_output_capture(model.model)
    picture = Image.new("RGB", (128, 128), "red")
    inputs = processor(images=[picture], text=["<|image|>where is the dog"], return_tensors="pt")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        plain = model(**inputs).logits  # here the tower would install hooks of its own
        captured = model(**inputs, output_attentions=True)
    assert torch.equal(captured.logits, plain)
    assert len(captured.attentions) == 2


def test_what_goes_on_without_pixels_is_the_language_model_where_they_are_demanded() -> None:
    blip, llava = tiny_blip2()[0], tiny_llava()[0]
    assert compat.text_model(blip) is blip.language_model
    assert compat.text_model(llava) is llava


def test_positions_are_those_that_generate_gives() -> None:
    ids = torch.arange(5, 9)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for model in (tiny_llava()[0], tiny_qwen2_5_vl()[0]):
        positions = compat.generation_positions(model, inputs)
        if positions is not None:
            assert positions.shape[-1] == 4
            assert (positions[..., 1:] - positions[..., :-1] == 1).all(), "text positions count on"
    assert compat.generation_positions(SimpleNamespace(), inputs) is None


@pytest.mark.parametrize("mask", [None, "bool", "additive"])
def test_the_kernels_log_sum_exp_comes_with_the_same_output(mask: str | None) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, count, 8, generator=random) for count in (5, 7, 7))
    given = {None: None, "bool": torch.rand(2, 1, 5, 7, generator=random) > 0.3, "additive": torch.randn(1, 1, 5, 7)}[
        mask
    ]
    with torch.no_grad():
        found = compat.attention_with_lse(query, key, value, given)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, given)
    assert found is not None
    assert torch.equal(found[0], expected)
    logits = query @ key.transpose(-1, -2) * 8**-0.5
    if mask == "bool":
        logits = logits.masked_fill(~given, -torch.inf)
    elif mask == "additive":
        logits = logits + given
    torch.testing.assert_close(found[1], logits.logsumexp(-1), atol=1e-5, rtol=0)


def test_kernels_without_a_log_sum_exp_give_none() -> None:
    query = torch.randn(1, 2, 4, 8)
    assert compat.attention_with_lse(query, query, query, dropout_p=0.1) is None
    assert compat.attention_with_lse(query.requires_grad_(), query, query) is None


def test_the_dispatchers_kernels_are_wrapped_and_restored() -> None:
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch", reason="the extra diffusion is not installed")
    registry = dispatch._AttentionBackendRegistry
    before, seen = dict(registry._backends), []

    def wrap(name: str, kernel: compat.Kernel, arguments: frozenset[str]) -> compat.Kernel:
        def wrapped(**given: Any) -> Any:
            seen.append((name, set(given) <= arguments))
            return kernel(**given)

        return wrapped

    query = torch.randn(1, 4, 2, 8)
    plain = dispatch.dispatch_attention_fn(query, query, query)
    with compat.dispatched_kernels(wrap):
        inside = dispatch.dispatch_attention_fn(query, query, query)
    assert torch.equal(plain, inside)
    assert seen == [("native", True)]
    assert registry._backends == before


def test_the_pipelines_dtype_argument_sets_the_number_format(tmp_path: Any) -> None:
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    from diffusers import FluxPipeline

    from grounding.diffusion.tiny import tiny_pipeline

    tiny_pipeline("FluxPipeline").save_pretrained(tmp_path)
    pipe = FluxPipeline.from_pretrained(tmp_path, **{compat.pipeline_dtype_argument(): torch.bfloat16})
    assert pipe.transformer.dtype == torch.bfloat16


def test_the_hub_is_offline_inside_the_block_alone(monkeypatch) -> None:
    from huggingface_hub import constants, is_offline_mode

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with compat.hub_offline():
        assert is_offline_mode()
    assert not is_offline_mode()
    with pytest.raises(RuntimeError, match="stop"), compat.hub_offline():
        raise RuntimeError("stop")
    assert not is_offline_mode()


def test_every_generate_runs_within_a_context_and_is_undone() -> None:
    from transformers import GenerationMixin

    model, before = tiny_llava()[0], GenerationMixin.generate
    seen: list[Any] = []

    @contextmanager
    def around(found: Any, inputs: Any, options: Any) -> Iterator[None]:
        seen.append((found, inputs is not None, sorted(options)))
        yield
        seen.append("done")

    ids = torch.arange(5, 9)[None]
    with compat.wrapped_generate(around):
        model.generate(ids, max_new_tokens=1)
        model.generate(input_ids=ids, max_new_tokens=1)
    assert GenerationMixin.generate is before
    model.generate(ids, max_new_tokens=1)
    first, second = (model, True, ["max_new_tokens"]), (model, False, ["input_ids", "max_new_tokens"])
    assert seen == [first, "done", second, "done"]


def test_settings_of_a_generation_come_from_the_call_its_config_or_the_model() -> None:
    from transformers import GenerationConfig

    model = tiny_llava()[0]
    names = ("prompt_lookup_num_tokens", "assistant_model")
    assert not any(compat.generation_options(model, {}, names))
    assert compat.generation_options(model, {"prompt_lookup_num_tokens": 3}, names)[0] == 3
    config = GenerationConfig(prompt_lookup_num_tokens=4)
    assert compat.generation_options(model, {"generation_config": config}, names)[0] == 4
    model.generation_config.prompt_lookup_num_tokens = 5
    assert compat.generation_options(model, {}, names)[0] == 5


def test_settings_that_differ_by_layer_are_read_layer_by_layer() -> None:
    import transformers

    config = tiny_llava()[0].get_decoder().config
    assert compat.layer_settings(config, "num_attention_heads") == [4]
    assert compat.layer_settings(config, "no_such_setting") == []
    if not hasattr(transformers, "Gemma4TextConfig"):
        pytest.skip("this version of transformers has no Gemma 4")
    layers = ["sliding_attention", "full_attention"]
    mixed = transformers.Gemma4TextConfig(num_hidden_layers=2, layer_types=layers, head_dim=8, global_head_dim=16)
    assert compat.layer_settings(mixed, "head_dim") == [8, 16]
    assert compat.layer_settings(mixed, "num_attention_heads") == [8, 8]


def test_which_cache_layers_leave_their_former_tensors() -> None:
    from transformers import cache_utils

    plain = cache_utils.DynamicLayer()
    assert compat.grows_by_copy(plain)
    first = plain.update(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3))[0]
    grown = plain.update(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3))[0]
    assert plain.keys is grown
    assert torch.equal(grown[:, :, :2], first)
    assert grown.data_ptr() != first.data_ptr()
    assert grown._version == 0
    plain.update = lambda *_: None
    assert not compat.grows_by_copy(plain)
    for other in (cache_utils.DynamicSlidingWindowLayer(4), cache_utils.StaticLayer(4)):
        assert not compat.grows_by_copy(other)


def test_processors_that_report_what_they_wrote_for_a_picture_are_known() -> None:
    _, processor = tiny_llava()
    picture = Image.new("RGB", (30, 30))
    found = processor(images=[picture], text=["<image> dog"], return_text_replacement_offsets=True)
    assert compat.reports_replacements(processor) == ("text_replacement_offsets" in found)
    assert not compat.reports_replacements(object())


def test_the_gated_delta_rule_is_wrapped_where_its_module_looks_it_up_and_undone() -> None:
    if "qwen3_5" not in TINY:
        pytest.skip("no tiny Qwen3.5")
    model = TINY["qwen3_5"]()[0]
    linear, full = model.get_decoder().layers
    module = compat.delta_module(linear)
    assert module is not None
    assert compat.delta_module(full) is None
    assert compat.delta_sizes(module) == (4, 2, 8)
    owner = compat.delta_rule_owner(module)
    before, seen = dict(vars(owner)), []

    def wrap(rule: compat.Kernel) -> compat.Kernel:
        def wrapped(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:
            seen.append((query.shape, key.shape, value.shape, set(options)))
            return rule(query, key, value, *args, **options)

        return wrapped

    ids = torch.arange(5, 12)[None]
    with torch.no_grad(), compat.wrapped_delta_rules(owner, wrap):
        model(input_ids=ids)
    assert dict(vars(owner)) == before
    assert [shapes[2] for shapes in seen] == [(1, 7, 4, 8)]
    assert seen[0][0] == seen[0][1] in ((1, 7, 2, 8), (1, 7, 4, 8))  # older releases do not share key heads
    assert {"g", "beta", "use_qk_l2norm_in_kernel"} <= seen[0][3]
    assert any(name in vars(owner) for name in compat.DELTA_RULES)


def test_older_releases_keep_the_gated_delta_rule_in_the_module() -> None:
    module: Any = compat.delta_module(TINY["qwen3_5"]()[0].get_decoder().layers[0])
    module.chunk_gated_delta_rule = rule = lambda: "the rule"
    assert compat.delta_rule_owner(module) is module
    with compat.wrapped_delta_rules(module, lambda found: lambda: f"around {found()}"):
        assert module.chunk_gated_delta_rule() == "around the rule"
    assert module.chunk_gated_delta_rule is rule
