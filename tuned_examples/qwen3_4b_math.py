"""ASPO on math problems: Qwen3-4B, as in the paper, with completions of up to 8,192 tokens, on one node of 8 GPUs.

Four GPUs sample and four train. It has not run on GPUs yet: use --dry-run first.
"""

from __future__ import annotations

import aspo_rllib
from aspo_rllib.recipe import options, run

parser = options(
    __doc__,
    name="qwen3_4b_math",
    model="Qwen/Qwen3-4B",
    data="agentica-org/DeepScaleR-Preview-Dataset",
    iterations=500,
    num_env_runners=4,
    num_learners=4,
)


def make_config(args) -> aspo_rllib.ASPOConfig:
    return (
        aspo_rllib.ASPOConfig.paper()  # all settings that are not set below
        .environment("aspo/Math-v0", env_config={"data": args.data})
        .llm(model=args.model, gradient_checkpointing=True)
        .sampling(max_completion_tokens=8192)
        .training(max_tokens_per_microbatch=20480)  # affects only memory; two rollouts of the largest length
        .env_runners(num_env_runners=args.num_env_runners, num_gpus_per_env_runner=1, num_cpus_per_env_runner=8)
        .learners(num_learners=args.num_learners, num_gpus_per_learner=1)
        .evaluation(
            evaluation_interval=20,
            evaluation_duration=500,  # all of MATH-500
            evaluation_config={
                "env_config": {"data": "HuggingFaceH4/MATH-500", "split": "test"},
                "group_size": 4,
                "temperature": 0.8,
                "top_p": 0.95,
            },
        )
        .debugging(seed=args.seed)
    )


if __name__ == "__main__":
    args = parser.parse_args()
    run(make_config(args), args)
