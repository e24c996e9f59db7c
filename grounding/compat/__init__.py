"""Wrap every private API of a dependency that this library uses, each in one function.

The oldest supported releases are transformers 5.2 and diffusers 0.36.
"""

from __future__ import annotations

from grounding.compat.compilation import (
    has_compiled_forward,
    is_compiled,
    is_wrapper,
    opaque_operator,
    torch_version,
    watched_compile,
    without_always_called,
    wrapped_compiled_calls,
)
from grounding.compat.delta_rule import DELTA_RULES, delta_module, delta_rule_owner, delta_sizes, wrapped_delta_rules
from grounding.compat.generation import (
    cache_argument,
    generation_options,
    generation_positions,
    grows_by_copy,
    wrapped_generate,
)
from grounding.compat.kernels import (
    Kernel,
    attention_with_lse,
    is_flash,
    kernel_name,
    known_kernels,
    layer_settings,
    looked_up_kernels,
    sdpa_kernel,
)
from grounding.compat.models import (
    complete_llama4_output,
    complete_llama4_output_hook,
    decoder_attentions,
    hub_commit,
    hub_offline,
    install_output_capture,
    last_logits,
    last_logits_option,
    reports_replacements,
    text_model,
)
from grounding.compat.pipelines import dispatched_kernels, pipeline_dtype_argument

__all__ = [
    "DELTA_RULES",
    "Kernel",
    "attention_with_lse",
    "cache_argument",
    "complete_llama4_output",
    "complete_llama4_output_hook",
    "decoder_attentions",
    "delta_module",
    "delta_rule_owner",
    "delta_sizes",
    "dispatched_kernels",
    "generation_options",
    "generation_positions",
    "grows_by_copy",
    "has_compiled_forward",
    "hub_commit",
    "hub_offline",
    "install_output_capture",
    "is_compiled",
    "is_flash",
    "is_wrapper",
    "kernel_name",
    "known_kernels",
    "last_logits",
    "last_logits_option",
    "layer_settings",
    "looked_up_kernels",
    "opaque_operator",
    "pipeline_dtype_argument",
    "reports_replacements",
    "sdpa_kernel",
    "text_model",
    "torch_version",
    "watched_compile",
    "without_always_called",
    "wrapped_compiled_calls",
    "wrapped_delta_rules",
    "wrapped_generate",
]
