"""A tiny model whose queries attend to the keys that an indexer chose, often not to themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def sparse_model() -> Any:
    """DeepSeek-V3.2 with four keys per query, under torch's kernel; skips the test where transformers lacks it."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "DeepseekV32Config"):
        pytest.skip("this version of transformers has no DeepSeek-V3.2")
    config = transformers.DeepseekV32Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        index_topk=4,
        index_n_heads=2,
        index_head_dim=16,
        pad_token_id=0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.DeepseekV32ForCausalLM._from_config(config, attn_implementation="sdpa").eval()
