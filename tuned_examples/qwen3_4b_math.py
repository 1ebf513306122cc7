"""ASPO on math problems: Qwen3-4B, as in the paper, with completions of up to 8,192 tokens, on one node of 8 GPUs.

Four GPUs sample, four train. Nothing of it has run on GPUs yet: look at --dry-run first.
"""

from ray import tune

from aspo_rllib import ASPOConfig
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


def make_config(args) -> ASPOConfig:
    return (
        ASPOConfig.paper()
        .environment("aspo/Math-v0", env_config={"data": args.data})
        .llm(model=args.model, dtype="bfloat16", max_prompt_tokens=2048, gradient_checkpointing=True)
        .sampling(group_size=16, temperature=1.0, max_completion_tokens=8192)
        .training(batch_prompts=64, minibatch_prompts=16, num_epochs=3, lr=1e-6, warmup_steps=120, weight_decay=0.1)
        .training(clip_low=0.2, clip_high=0.2, weight_cap=3.0, aggregation="sequence", kl_coef=0.001, grad_clip=1.0)
        .training(overlong_buffer_tokens=16, max_tokens_per_microbatch=20480)  # memory alone; two of the longest
        .env_runners(num_env_runners=args.num_env_runners, num_gpus_per_env_runner=1, num_cpus_per_env_runner=8)
        .learners(num_learners=args.num_learners, num_gpus_per_learner=1)
        .evaluation(
            evaluation_interval=20,
            evaluation_duration=500,  # all of MATH-500
            evaluation_config={
                "env_config": {"data": "HuggingFaceH4/MATH-500", "split": "test"},
                "group_size": 4,
                "temperature": 0.8,
            },
        )
        .debugging(seed=args.seed)
    )


if __name__ == "__main__":
    args = parser.parse_args()
    run(
        make_config(args),
        args,
        checkpoint_config=tune.CheckpointConfig(
            num_to_keep=3,
            checkpoint_score_attribute="held_out_accuracy",
            checkpoint_frequency=20,
            checkpoint_at_end=True,
        ),
        failure_config=tune.FailureConfig(max_failures=3),
    )
