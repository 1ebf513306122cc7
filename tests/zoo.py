"""Tiny random models of many classes: 128 wide, heads of 32, so that vLLM's attention on CPUs takes them, too."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 300  # the bundled model's tokenizer fits in
WINDOW = 12
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,  # the usual 0.02 makes all distributions uniform, and errors invisible
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
    "head_dim": 16,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "short_factor": [1.0] * 16,
    "long_factor": [4.0] * 16,
}

# name -> (model type, what its config has beside or instead of SIZES)
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "bloom": ("bloom", {"n_head": 4, "n_layer": 2}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere2": ("cohere2", {"logit_scale": 4.0, "sliding_window": WINDOW}),
    "deepseek_v2": ("deepseek_v2", LATENT | ROUTED | {"topk_method": "greedy"}),
    "deepseek_v3": ("deepseek_v3", LATENT | ROUTED),
    "doge": ("doge", {}),
    "ernie4_5": ("ernie4_5", {}),
    "exaone4": ("exaone4", {"sliding_window": WINDOW, "sliding_window_pattern": 2}),
    "falcon": ("falcon", {"multi_query": True, "new_decoder_architecture": False, "head_dim": None}),
    "falcon_h1": ("falcon_h1", {"lm_head_multiplier": 0.5, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": WINDOW, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", {"sliding_window": WINDOW, "final_logit_softcapping": 3.0}),
    "gemma4": ("gemma4_text", {"sliding_window": WINDOW, "final_logit_softcapping": 3.0}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "gpt2": ("gpt2", {}),
    "gpt_bigcode": ("gpt_bigcode", {}),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_oss": ("gpt_oss", LOCAL_EXPERTS | {"sliding_window": WINDOW}),
    "gptj": ("gptj", {"rotary_dim": 16}),
    "granite": ("granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.2}),
    "granitemoe": ("granitemoe", LOCAL_EXPERTS | {"logits_scaling": 6.0}),
    "granitemoehybrid": (
        "granitemoehybrid",
        LOCAL_EXPERTS
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "mamba_n_heads": 4,
            "mamba_expand": 1,
            "logits_scaling": 6.0,
            "shared_intermediate_size": 64,
        },
    ),
    "helium": ("helium", {}),
    "hunyuan": ("hunyuan_v1_dense", {}),
    "hyperclovax": ("hyperclovax", {"logits_scaling": 0.3}),
    "jamba": (
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "lfm2": ("lfm2", {"full_attn_idxs": [1]}),
    "llama": ("llama", {}),
    "llama3_rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama4": (
        "llama4_text",
        LOCAL_EXPERTS | {"intermediate_size_mlp": 96, "attention_chunk_size": 16, "num_experts_per_tok": 1},
    ),
    "llama_dynamic": (
        "llama",
        {
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
    "mamba": ("mamba", {"state_size": 8}),
    "mamba2": ("mamba2", {"state_size": 8, "num_heads": 8, "head_dim": 32, "n_groups": 2}),
    "minicpm3": ("minicpm3", LATENT | {"dim_model_base": 32, "scale_depth": 1.4}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "mixtral": ("mixtral", LOCAL_EXPERTS | {"sliding_window": WINDOW}),
    "mpt": ("mpt", {"d_model": 128, "n_heads": 4, "n_layers": 2, "max_seq_len": 256}),
    "nanochat": ("nanochat", {"final_logit_softcapping": 3.0}),
    "nemotron": ("nemotron", {}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": WINDOW}),
    "olmoe": ("olmoe", EXPERTS),
    "opt": ("opt", {"ffn_dim": 160, "word_embed_proj_dim": 64}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "phi3_longrope": ("phi3", {"original_max_position_embeddings": 24, "rope_parameters": LONG_ROPE}),
    "phimoe": ("phimoe", LOCAL_EXPERTS | {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2_window": ("qwen2", {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen2_moe": ("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 64}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3_moe": ("qwen3_moe", EXPERTS),
    "qwen3_next": (
        "qwen3_next",
        EXPERTS
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        {
            "lru_width": 128,
            "attention_window_size": WINDOW,
            "logits_soft_cap": 3.0,
            "block_types": ["recurrent", "attention"],
        },
    ),
    "rwkv": ("rwkv", {"attention_hidden_size": 128}),
    "seed_oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "stablelm": ("stablelm", {}),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW}),
    "vaultgemma": ("vaultgemma", {"sliding_window": WINDOW, "final_logit_softcapping": 3.0}),
    "xglm": ("xglm", {"d_model": 128, "ffn_dim": 160, "attention_heads": 4, "num_layers": 2}),
}


def random_model(name: str, **changed: Any) -> PreTrainedModel:
    """The zoo's model of this name, with random float32 weights."""
    model_type, settings = ZOO[name]
    config = AutoConfig.for_model(model_type, **(SIZES | settings | changed))
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
