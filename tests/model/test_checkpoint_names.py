"""Weights in the form of their checkpoint: what a folder on disk holds, name by name and bit by bit."""

import pytest
import torch
from safetensors.torch import load_file
from zoo import random_model

from aspo_rllib.model.checkpoint_names import CheckpointNames
from aspo_rllib.model.loading import load_headers
from aspo_rllib.model.policy import load_policy, stream_weights

FUSED = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "deepseek_v3", "jamba"]
OTHER_NAMES = ["gpt_neox", "granitemoe"]
AS_IN_MEMORY = ["llama", "qwen3", "gpt2", "bloom", "gpt_oss"]


@pytest.mark.parametrize("name", FUSED + OTHER_NAMES + AS_IN_MEMORY)
def test_every_weight_is_that_of_the_folder(name, tmp_path):
    random_model(name).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    policy = load_policy(str(tmp_path))
    weights = [(names[0], tensor) for names, tensor in stream_weights(policy)]
    # The learner knows its model; an engine knows only the headers of its files.
    for hf_model in (policy.hf_model, load_headers(str(tmp_path), trust_remote_code=False)):
        converted = dict(CheckpointNames(hf_model, weights).convert(weights))
        assert converted.keys() == stored.keys()
        assert all(torch.equal(tensor, stored[key]) for key, tensor in converted.items())
    assert (converted.keys() == dict(weights).keys()) is (name in AS_IN_MEMORY)


def test_weights_that_keep_their_form_are_not_copied(tmp_path):
    random_model("qwen3_moe").save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path))
    weights = [(names[0], tensor) for names, tensor in stream_weights(policy)]
    converted = dict(CheckpointNames(policy.hf_model, weights).convert(weights))
    for name, tensor in weights:
        if name in converted:
            assert converted[name] is tensor
