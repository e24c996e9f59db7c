"""Wrap every private API of a dependency that this library uses, each in one function.

The oldest supported releases are transformers 5.2 and diffusers 0.36.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Kernel = Callable[..., Any]


def kernel_name(config: Any) -> str:
    """Return the name of the attention kernel that a transformers config selects; `eager` where none is set."""
    return str(config._attn_implementation or "eager")


def known_kernels() -> tuple[str, ...]:
    """Return the names of the attention kernels registered with transformers, sorted, without `eager`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return tuple(sorted(ALL_ATTENTION_FUNCTIONS))


def is_flash(name: str) -> bool:
    """Whether a registered kernel takes its mask in the form of flash kernels, [B, K] padding or None."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    mask = ALL_MASK_ATTENTION_FUNCTIONS.get(name)
    return mask is not None and mask is ALL_MASK_ATTENTION_FUNCTIONS.get("flash_attention_2")


def sdpa_kernel() -> Kernel:
    """Return transformers' kernel that calls torch's `scaled_dot_product_attention`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def hub_commit(name: str, file: str = "config.json") -> str:
    """Return the commit of a hub model that would be loaded now; only one of its files is fetched.

    Without a network the local cache decides.

    Raises:
        OSError: the hub does not know the model, or cannot be reached and the model is not in the local cache.
    """
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(name, file))).parent.name  # .../snapshots/COMMIT/FILE


def reports_replacements(processor: Any) -> bool:
    """Whether a transformers processor can report what it wrote in place of image tokens."""
    from transformers import processing_utils

    known = "return_text_replacement_offsets" in inspect.getsource(processing_utils.ProcessorMixin.__call__)
    return known and isinstance(processor, processing_utils.ProcessorMixin)


def last_logits() -> Tensor:
    """Return the `logits_to_keep` of a pass that gives the last position's logits and runs each layer over the prompt.

    Given the number 1 instead, models whose last layers use the keys of earlier ones run those layers over the last
    position alone (Gemma 3n and 4).
    """
    return torch.tensor([-1])


def last_logits_option(model: Any) -> dict[str, Tensor]:
    """Return `last_logits` as an option of `model.generate`; none where the model always gives all logits."""
    return {"logits_to_keep": last_logits()} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def complete_llama4_output(model: Any) -> None:
    """Give what Llama 4's language model returns the attribute `image_outputs`, once for each model.

    `Llama4ForConditionalGeneration.forward` of transformers 5.24 reads it from an output that lacks it, so that every
    pass fails.
    """
    language_model = model.language_model
    if complete_llama4_output_hook not in language_model._forward_hooks.values():
        language_model.register_forward_hook(complete_llama4_output_hook)


def complete_llama4_output_hook(module: Any, args: Any, output: Any) -> None:
    """Set `image_outputs` of a model output that has none to None."""
    if not isinstance(output, tuple) and not hasattr(output, "image_outputs"):
        output.image_outputs = None


@contextmanager
def looked_up_kernels(wrap: Callable[[str, Kernel], Kernel]) -> Iterator[None]:
    """Wrap every attention kernel that a transformers module looks up inside the block.

    The config keeps the kernel's name, so classes that branch on it (sparse attention, flash paths) behave as without
    the block. Both `get_interface` and the registry's `[]` are wrapped, because modules use either.

    Args:
        wrap: a function from the kernel's name and the kernel to the kernel to call in its place.
    """
    from transformers import AttentionInterface

    get_interface, get_item = AttentionInterface.get_interface, AttentionInterface.__getitem__
    own_get_item = "__getitem__" in vars(AttentionInterface)

    def wrapped_get_interface(self: Any, attn_implementation: str, default: Kernel) -> Kernel:
        kernel = get_interface(self, attn_implementation, default)
        # A registered kernel has already been wrapped by `[]`; the module's own eager function has not.
        return (
            kernel if getattr(kernel, "is_wrapped_kernel", False) else _marked(attn_implementation or "eager", kernel)
        )

    def wrapped_get_item(self: Any, name: str) -> Kernel:
        return _marked(name, get_item(self, name))

    def _marked(name: str, kernel: Kernel) -> Kernel:
        wrapped = wrap(name, kernel)
        if wrapped is not kernel and not hasattr(wrapped, "is_wrapped_kernel"):
            wrapped.is_wrapped_kernel = True  # type: ignore[attr-defined]
        return wrapped

    AttentionInterface.get_interface = wrapped_get_interface
    AttentionInterface.__getitem__ = wrapped_get_item
    try:
        yield
    finally:
        AttentionInterface.get_interface = get_interface
        if own_get_item:
            AttentionInterface.__getitem__ = get_item
        else:
            del AttentionInterface.__getitem__


DELTA_RULES = (
    "torch_chunk_gated_delta_rule",
    "torch_recurrent_gated_delta_rule",
    "chunk_gated_delta_rule",
    "recurrent_gated_delta_rule",
)
"""Names of the gated delta rule in transformers: of functions of a modeling file, or of attributes of its modules."""


def delta_module(layer: nn.Module) -> nn.Module | None:
    """Return the module of a layer that attends by the gated delta rule; None if there is none."""
    return next((module for module in layer.modules() if _calls_delta_rule(type(module))), None)  # type: ignore[arg-type]


@cache
def _calls_delta_rule(kind: type) -> bool:
    if not kind.__module__.startswith("transformers.") or not kind.__name__.endswith("GatedDeltaNet"):
        return False
    return "gated_delta_rule" in inspect.getsource(inspect.unwrap(kind.forward))  # type: ignore[attr-defined]


def delta_sizes(module: nn.Module) -> tuple[int, int, int]:
    """Return value heads, key heads and key width of a module that attends by the gated delta rule."""
    sizes: Any = module
    return int(sizes.num_v_heads), int(sizes.num_k_heads), int(sizes.head_k_dim)


def delta_rule_owner(module: nn.Module) -> Any:
    """Return what holds the gated delta rule that a module calls: its modeling file, or itself in older releases."""
    if any(name in vars(module) for name in DELTA_RULES):
        return module
    return sys.modules[type(module).__module__]


@contextmanager
def wrapped_delta_rules(owner: Any, wrap: Callable[[Kernel], Kernel]) -> Iterator[None]:
    """Wrap the functions of the gated delta rule inside the block.

    Args:
        owner: what holds them, as `delta_rule_owner` finds it.
        wrap: a function from the rule to the function to call in its place.
    """
    before = {name: vars(owner)[name] for name in DELTA_RULES if callable(vars(owner).get(name))}
    for name, rule in before.items():
        setattr(owner, name, wrap(rule))
    try:
        yield
    finally:
        for name, rule in before.items():
            setattr(owner, name, rule)


def layer_settings(config: Any, name: str) -> list[int]:
    """Return a whole number of a transformers config, one per layer where it differs by layer.

    A config of layers that differ raises when the number of the whole model is asked for.

    Args:
        config: of the text model.
        name: such as `head_dim`.

    Returns:
        One number, or one per layer; none where the config does not have it.
    """
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    found = [getattr(one, name, None) for one in layers]
    return [int(value) for value in found if value is not None]


@contextmanager
def wrapped_generate(
    around: Callable[[Any, Tensor | None, Mapping[str, Any]], AbstractContextManager[None]],
) -> Iterator[None]:
    """Run every `generate` of a transformers model inside the block within a context manager.

    The class's method is wrapped, because models call `generate` of their parts, and adapters that of their base model.

    Args:
        around: makes the context manager from the model, its first positional argument and its keyword arguments.
    """
    from transformers import GenerationMixin

    generate = GenerationMixin.generate

    @wraps(generate)
    def wrapped(self: Any, inputs: Tensor | None = None, *args: Any, **options: Any) -> Any:
        with around(self, inputs, options):
            return generate(self, inputs, *args, **options)

    GenerationMixin.generate = wrapped
    try:
        yield
    finally:
        GenerationMixin.generate = generate


def generation_options(model: Any, options: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return settings of a call of `generate`: its keyword arguments, else its generation config's, else the model's.

    Args:
        model: the model.
        options: the call's keyword arguments.
        names: the settings.
    """
    config = options.get("generation_config") or getattr(model, "generation_config", None)
    return [options[name] if options.get(name) is not None else getattr(config, name, None) for name in names]


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by `torch.compile`, in place or as a wrapper."""
    return module._compiled_call_impl is not None or is_wrapper(module)


def torch_version() -> tuple[int, int]:
    """Major and minor version of torch."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def opaque_operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a decorator that registers a function as an operator which compilers neither look into nor replay.

    Args:
        name: `namespace::name`.
    """
    options: dict[str, Any] = {"mutates_args": ()}
    # A replayed CUDA graph would leave Python out.
    if "tags" in inspect.signature(torch.library.custom_op).parameters and hasattr(torch.Tag, "cudagraph_unsafe"):
        options["tags"] = (torch.Tag.cudagraph_unsafe,)
    return torch.library.custom_op(name, **options)


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module is the wrapper that `torch.compile(module)` returns."""
    return type(module).__name__ == "OptimizedModule"


def has_compiled_forward(module: nn.Module) -> bool:
    """Whether a module's `forward` alone is compiled, as by `module.forward = torch.compile(module.forward)`."""
    return hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")


@contextmanager
def without_always_called(module: nn.Module, handle: RemovableHandle) -> Iterator[None]:
    """Make a forward hook inside the block one that is not called after an exception.

    Compiled code depends on the numbers of hooks that always are, so each new hook would have the module compiled anew.
    """
    kept = module._forward_hooks_always_called.pop(handle.id, None)
    try:
        yield
    finally:
        if kept is not None:
            module._forward_hooks_always_called[handle.id] = kept


@contextmanager
def wrapped_compiled_calls(module: nn.Module, wrap: Callable[[Kernel], Kernel]) -> Iterator[None]:
    """Wrap what runs in a module's place inside the block: its compiled call, and the one that `generate` compiles.

    The compiled call of a module that `compile()` compiled in place runs the module's hooks inside the compiled code;
    `get_compiled_call` gives `generate` the compiled module for decode steps with a static cache.

    Args:
        module: any module.
        wrap: a function from the compiled call to the call to make in its place.
    """
    own: Any = vars(module)
    before = {name: own[name] for name in ("_compiled_call_impl", "get_compiled_call") if name in own}
    get_compiled_call = getattr(module, "get_compiled_call", None)
    if module._compiled_call_impl is not None:
        own["_compiled_call_impl"] = wrap(module._compiled_call_impl)
    if get_compiled_call is not None:
        own["get_compiled_call"] = lambda *args: wrap(get_compiled_call(*args))
    try:
        yield
    finally:
        for name in ("_compiled_call_impl", "get_compiled_call"):
            own.pop(name, None)
        own.update(before)


def cache_argument(module: nn.Module) -> str:
    """Return the name of a module's cache argument: `cache` since transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def grows_by_copy(layer: Any) -> bool:
    """Whether a layer of a key/value cache makes new tensors of all keys and values whenever it grows.

    Its former tensors, `keys` and `values`, stay as they were, and are a prefix of the new ones. Of transformers'
    layers only the plain dynamic one does; sliding, static and quantised ones drop, overwrite or round.
    """
    return _is_plain_dynamic(type(layer)) and "update" not in vars(layer)  # type: ignore[arg-type]  # classes can be hashed


@cache
def _is_plain_dynamic(kind: type) -> bool:
    from transformers.cache_utils import DynamicLayer

    return kind is DynamicLayer


def generation_positions(model: Any, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Compute the position ids that `generate` passes for a prompt.

    Args:
        model: a transformers model with `generate`.
        inputs: the prompt, by the model's argument names.

    Returns:
        [B, N] or [4, B, N]; None where the model's forward computes its own.
    """
    find = getattr(model, "_prepare_position_ids_for_generation", None)
    if find is None:
        return None
    positions: Tensor = find(inputs["input_ids"], dict(inputs))
    return positions


@contextmanager
def hub_offline() -> Iterator[None]:
    """Let huggingface_hub, and the libraries that fetch through it, use its cache alone inside the block.

    Its environment variable does the same, but is read once, when the package is imported.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def attention_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Run the kernel that torch's `scaled_dot_product_attention` would choose, and return its log-sum-exp as well.

    The arguments are those of `scaled_dot_product_attention`.

    Returns:
        (output [B, H, Q, Dv], bit for bit that of the function; log-sum-exp [B, H, Q] float32), or None where the
        chosen kernel gives no sum: attention written out, dropout, gradients, shared key heads, and on a GPU
        masks and head widths that the kernel would have to pad.
    """
    gradients = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if dropout_p > 0 or enable_gqa or gradients or query.ndim != 4:
        return None
    kernel = torch._fused_sdp_choice(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    flash, efficient, cudnn = 1, 2, 3  # torch.nn.attention.SDPBackend
    aten = torch.ops.aten
    if query.device.type == "cpu" and kernel == flash:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        output, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
        return output, lse.float()
    if query.device.type != "cuda" or attn_mask is not None or query.shape[-1] % 8 or value.shape[-1] % 8:
        return None
    if kernel == flash:
        output, lse, *_ = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )
    elif kernel == efficient:
        output, lse, *_ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, dropout_p, is_causal, scale=scale
        )
    elif kernel == cudnn:
        output, lse, *_ = aten._scaled_dot_product_cudnn_attention(
            query, key, value, None, True, dropout_p, is_causal, False, scale=scale
        )
        lse = lse.squeeze(-1) if lse.ndim == query.ndim else lse
    else:
        return None
    return output, lse[..., : query.shape[2]].float()  # some kernels round the number of queries up


@contextmanager
def dispatched_kernels(wrap: Callable[[str, Kernel, frozenset[str]], Kernel]) -> Iterator[None]:
    """Wrap every attention kernel of diffusers' dispatcher inside the block.

    diffusers looks a kernel up at every call and filters its arguments by a table that was made at registration, so a
    replaced entry is called with the arguments of the kernel it stands for.

    Args:
        wrap: a function from the kernel's name, the kernel and the names of its arguments to the kernel to call in its
            place.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    kernels = dict(Registry._backends)
    for name, kernel in kernels.items():
        Registry._backends[name] = wrap(str(name.value), kernel, frozenset(Registry._supported_arg_names[name]))
    try:
        yield
    finally:
        Registry._backends.update(kernels)


def pipeline_dtype_argument() -> str:
    """Return the name of the number format in a pipeline's `from_pretrained`: `dtype`, or before it `torch_dtype`."""
    from diffusers import DiffusionPipeline

    return "dtype" if 'pop("dtype"' in inspect.getsource(DiffusionPipeline.from_pretrained) else "torch_dtype"
