"""Offloaded shards lie on the CPU: their collectives need a backend that the process group of GPU learners lacks."""

import warnings

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aspo_rllib.model.packing import pad_rows
from aspo_rllib.model.policy import load_policy
from aspo_rllib.model.sharding import shard_policy

ROWS = [np.array([3, 1, 4, 1], np.int64), np.array([5, 9], np.int64)]


def gradient_norm(policy):
    """Of the sum of all logprobs, before it is clipped."""
    logprobs, _ = policy(pad_rows(ROWS, ROWS, "cpu"), 1.0)
    logprobs.sum().backward()
    return torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)


def rank_of_two(rank, rendezvous, model, whole):
    """ "cuda:gloo" serves CUDA tensors alone, as "nccl" does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("cuda:gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    policy = load_policy(model)
    shard_policy(policy, torch.float32, device="cpu", cpu_offload=True)
    norm = gradient_norm(policy).full_tensor()
    torch.testing.assert_close(norm, 2 * whole)  # both ranks have the same rows, and gradients are summed
    clipped = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters()]).full_tensor()
    torch.testing.assert_close(clipped, torch.tensor(0.5))
    dist.barrier()
    dist.destroy_process_group()


def test_gradients_of_offloaded_shards_are_clipped_where_the_group_serves_gpus_alone(tmp_path, random_model):
    whole = gradient_norm(load_policy(random_model))
    mp.spawn(rank_of_two, args=(tmp_path / "rendezvous", random_model, whole), nprocs=2)
