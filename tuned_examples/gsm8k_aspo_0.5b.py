"""ASPO on grade-school math: Qwen2.5-0.5B-Instruct on one GPU of 24 GiB, which engine and learner share.

It uses the paper's loss, shorter completions and a larger learning rate. It has not run on GPUs yet: use --dry-run
first.
"""

from __future__ import annotations

import aspo_rllib
from aspo_rllib.recipe import options, run

parser = options(
    __doc__,
    name="gsm8k_aspo_0.5b",
    model="Qwen/Qwen2.5-0.5B-Instruct",
    data="openai/gsm8k:main",
    iterations=200,
    num_env_runners=1,
    num_learners=0,
)
parser.set_defaults(gpu_memory_gib=24)


def make_config(args) -> aspo_rllib.ASPOConfig:
    return (
        aspo_rllib.ASPOConfig.paper()  # all settings that are not set below
        .environment(
            "aspo/Math-v0", env_config={"data": args.data, "held_out_frac": 0.05}
        )  # of a file without a test split
        .llm(model=args.model, max_prompt_tokens=512, gradient_checkpointing=True)
        .llm(gpu_memory_utilization=0.4)  # the learner has the rest
        .sampling(max_completion_tokens=1024)
        .training(lr=2e-6, warmup_steps=12)
        .training(max_tokens_per_microbatch=8192)  # affects only memory; five rollouts of the largest length
        .env_runners(num_env_runners=args.num_env_runners, num_gpus_per_env_runner=0.4, num_cpus_per_env_runner=4)
        .learners(num_learners=args.num_learners, num_gpus_per_learner=0.6)
        .evaluation(
            evaluation_interval=10,
            evaluation_duration=256,  # of 1,319
            evaluation_config={"env_config": {"split": "test"}, "group_size": 4, "temperature": 0.8, "top_p": 0.95},
        )
        .debugging(seed=args.seed)
    )


if __name__ == "__main__":
    args = parser.parse_args()
    run(make_config(args), args)
