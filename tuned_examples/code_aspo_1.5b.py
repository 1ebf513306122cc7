"""ASPO on programming problems: DeepSeek-R1-Distill-Qwen-1.5B, as in the authors' code, on one node of 8 GPUs.

Four GPUs sample and four train. Programs run in a sandbox on the nodes of the engines. It has not run on GPUs yet: use
--dry-run first.
"""

from __future__ import annotations

import aspo_rllib
from aspo_rllib.recipe import options, run

parser = options(
    __doc__,
    name="code_aspo_1.5b",
    model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    data="agentica-org/DeepCoder-Preview-Dataset:primeintellect",
    iterations=500,
    num_env_runners=4,
    num_learners=4,
)


def make_config(args) -> aspo_rllib.ASPOConfig:
    return (
        aspo_rllib.ASPOConfig.archer2()  # all settings that are not set below
        .environment("aspo/Code-v0", env_config={"data": args.data})
        .llm(model=args.model, gradient_checkpointing=True)
        .env_runners(num_env_runners=args.num_env_runners, num_gpus_per_env_runner=1, num_cpus_per_env_runner=8)
        .learners(num_learners=args.num_learners, num_gpus_per_learner=1)
        .evaluation(
            evaluation_interval=20,
            evaluation_duration=279,  # LiveCodeBench v5, 2024-08 to 2025-02
            evaluation_config={
                "env_config": {"data": "agentica-org/DeepCoder-Preview-Dataset:lcbv5", "split": "test"},
                "group_size": 8,
                "temperature": 0.8,
                "top_p": 0.95,
            },
        )
        .debugging(seed=args.seed)
    )


if __name__ == "__main__":
    args = parser.parse_args()
    run(make_config(args), args)
