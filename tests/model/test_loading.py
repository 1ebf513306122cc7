"""A checkpoint is loaded whole or refused, whatever its names, its shards and its tied weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import random_model

from aspo_rllib.model.loading import check_weights
from aspo_rllib.model.policy import load_policy
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine


def edited(folder, name: str, edit) -> str:
    """The zoo's model, its weights changed by `edit` of a dict."""
    random_model(name).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(edit(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def without(*ends: str):
    return lambda weights: {name: tensor for name, tensor in weights.items() if not name.endswith(ends)}


LACKING = {
    "a matrix": ("llama", without("layers.1.mlp.down_proj.weight")),
    "a norm": ("qwen3", without("model.norm.weight")),
    "a bias": ("gpt2", without("h.1.attn.c_attn.bias")),
    "the embedding of tied weights": ("gemma", without("embed_tokens.weight")),
    "an untied head": ("llama", without("lm_head.weight")),
    "a head of another name": ("gpt_neox", without("embed_out.weight")),
    "one expert of many": ("mixtral", without("experts.2.w1.weight")),
    "all experts of a layer": ("qwen3_moe", lambda w: {n: t for n, t in w.items() if "layers.1.mlp.experts" not in n}),
    "a router": ("olmoe", without("layers.0.mlp.gate.weight")),
    "a layer": ("mistral", lambda w: {n: t for n, t in w.items() if "layers.1." not in n}),
    "names that begin otherwise": ("llama", lambda w: {f"policy.{n}": t for n, t in w.items()}),
    "names of a wrapper": ("opt", lambda w: {f"_orig_mod.{n}": t for n, t in w.items()}),
}


@pytest.mark.parametrize("case", LACKING)
def test_missing_weights_are_refused_by_learner_engine_and_preflight(case, tmp_path):
    folder = edited(tmp_path, *LACKING[case])
    for load in (
        lambda: load_policy(folder),
        lambda: check_weights(folder, trust_remote_code=False),
        lambda: TransformersEngine(folder, dtype="float32", max_model_len=32, max_num_seqs=2, seed=0),
    ):
        with pytest.raises(ValueError, match=r"llm_model=.*weights are missing in its checkpoint, (such as|or have)"):
            load()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt_neox", "mixtral", "gemma3", "bloom", "granitemoe"])
def test_whole_checkpoints_are_loaded(name, tmp_path):
    model = random_model(name)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    check_weights(str(tmp_path), trust_remote_code=False)
    loaded = load_policy(str(tmp_path)).hf_model.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in model.state_dict().items())


def test_weights_of_more_than_the_class_are_no_fault(tmp_path):
    """Checkpoints bring heads of other tasks, and rotary frequencies of old versions."""
    extra = {"value_head.weight": torch.zeros(1, 128), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    folder = edited(tmp_path, "llama", lambda w: w | extra)
    load_policy(folder)


def test_a_shard_that_the_index_names_and_that_lacks_a_weight(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="200KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    shard = tmp_path / index["model.layers.1.mlp.up_proj.weight"]
    weights = load_file(shard)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing in its checkpoint, such as 'model.layers.1.mlp.up_proj.weight'"):
        check_weights(str(tmp_path), trust_remote_code=False)
