"""The whole algorithm on one page, without Ray: sample, advantages, update, sync, in a plain loop.

    python tuned_examples/loop_by_hand.py                          # ASPO on sums of three digits, on a CPU
    python tuned_examples/loop_by_hand.py --loss grpo --engine vllm

`ASPO.training_step` does the same with many env runners and learners, and adds what a long run needs: checkpoints,
restarts, overlapped sampling and metrics. Here every step can be read, printed and changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch

    from aspo_rllib.model.policy import Policy
    from aspo_rllib.rollout.engines.engine import Completion, Engine


MAX_TOKENS = 8  # length limit of a completion
SAMPLING = {"temperature": 1.0, "top_p": 1.0}


class Sample(NamedTuple):
    """A graded completion and its advantage within its group."""

    prompt_ids: np.ndarray
    completion: Completion
    reward: float
    advantage: float


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--loss", default="aspo", help="a name in aspo_rllib.LOSSES")
parser.add_argument("--engine", default="transformers", choices=["transformers", "vllm"])
parser.add_argument("--iterations", type=int, default=10)
parser.add_argument("--prompts", type=int, default=16, help="prompts per iteration")
parser.add_argument("--group-size", type=int, default=16, help="completions per prompt")
parser.add_argument("--minibatch-prompts", type=int, default=4, help="prompts per optimizer step")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--seed", type=int, default=0)


def make_engine(name: str, model: str, seed: int) -> Engine:
    settings = {"dtype": "float32", "max_model_len": 32 + MAX_TOKENS, "max_num_seqs": 256, "seed": seed}
    if name == "transformers":
        from aspo_rllib.rollout.engines.hf_engine import TransformersEngine

        return TransformersEngine(model, **settings)
    from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine

    cache = {"kv_cache_memory_bytes": 1 << 28, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 1}
    return VLLMEngine(model, **settings, **cache)


def sample_groups(engine: Engine, env, tokenizer, indices: list[int], args, stop: list[int]) -> Iterator[list[Sample]]:
    """Sample `group_size` completions for each task; yields each group with its rewards and advantages."""
    import numpy as np

    from aspo_rllib.learner.advantages import ADVANTAGES, group_advantages

    prompts = {}
    for index in indices:
        question, _ = env.reset(options={"index": index})
        ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        prompts[index] = np.array(ids["input_ids"], dtype=np.int32)
        for n in range(args.group_size):
            engine.submit(f"{index}/{n}", prompts[index], max_tokens=MAX_TOKENS, stop_token_ids=stop, **SAMPLING)
    finished = {}
    while engine.busy:
        finished |= {completion.request_id: completion for completion in engine.step()}
    for index in indices:
        completions = [finished[f"{index}/{n}"] for n in range(args.group_size)]
        rewards = []
        for text in tokenizer.batch_decode([c.completion_ids for c in completions], skip_special_tokens=True):
            env.reset(options={"index": index})
            rewards.append(env.step(text)[1])
        advantages = group_advantages(ADVANTAGES["grpo"], rewards)
        yield [Sample(prompts[index], *row) for row in zip(completions, rewards, advantages, strict=True)]


def update(policy: Policy, optimizer: torch.optim.Optimizer, groups: list[list[Sample]], args) -> None:
    """Take one optimizer step per mini-batch and epoch. The ratio is relative to the policy before the update."""
    import torch

    from aspo_rllib.losses import aggregation_coefficients, policy_loss, resolve_loss
    from aspo_rllib.model.packing import pad_rows

    method, minibatches = resolve_loss(args.loss), []
    for start in range(0, len(groups), args.minibatch_prompts):
        samples = [sample for group in groups[start : start + args.minibatch_prompts] for sample in group]
        tokens = pad_rows([s.prompt_ids for s in samples], [s.completion.completion_ids for s in samples], "cpu")
        with torch.no_grad():
            old_logprobs, _ = policy(tokens)
        minibatches.append((tokens, old_logprobs, torch.tensor([s.advantage for s in samples])))
    for _ in range(args.epochs):
        for tokens, old_logprobs, advantages in minibatches:
            mask = tokens.loss_mask
            counts = {"num_loss_tokens": int(mask.sum()), "num_sequences": len(mask)}
            coefficients = aggregation_coefficients(
                mask, method.aggregation, **counts, max_completion_tokens=MAX_TOKENS
            )
            logprobs, _ = policy(tokens)
            settings = {"clip_low": method.clip_low, "clip_high": method.clip_high, "weight_cap": 3.0}
            settings |= {"loss": method.token_weight, "coefficients": coefficients}
            loss = policy_loss(logprobs, old_logprobs, advantages, mask, **settings).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()


def train(args: argparse.Namespace) -> list[float]:
    """Train the bundled model; returns the mean reward of every iteration."""
    import gymnasium as gym
    import numpy as np
    import torch
    from transformers import AutoTokenizer

    from aspo_rllib import TINY_MODEL
    from aspo_rllib.model.policy import load_policy
    from aspo_rllib.model.sharding import full_weights

    torch.manual_seed(args.seed)
    env = gym.make("envs:aspo/Arithmetic-v0", digits=3)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    engine = make_engine(args.engine, TINY_MODEL, args.seed)
    policy = load_policy(TINY_MODEL)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.lr)
    order = np.random.default_rng(args.seed).permutation(len(env.unwrapped))
    means: list[float] = []
    for iteration in range(args.iterations):
        indices = order[iteration * args.prompts : (iteration + 1) * args.prompts].tolist()
        groups = list(sample_groups(engine, env, tokenizer, indices, args, [tokenizer.eos_token_id]))
        means.append(float(np.mean([sample.reward for group in groups for sample in group])))
        print(f"iteration {iteration:3}  reward {means[-1]:.3f}", flush=True)
        informative = [group for group in groups if len({sample.reward for sample in group}) > 1]
        update(policy, optimizer, informative, args)
        engine.load_weights(list(full_weights(policy).items()))
    return means


if __name__ == "__main__":
    train(parser.parse_args())
