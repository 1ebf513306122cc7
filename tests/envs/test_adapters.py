"""The graders as verl, TRL and GEM call them; TRL and GEM are the real packages."""

import json

import gem
import pytest
from datasets import Dataset
from gem.vector.sync_vector_env import SyncVectorEnv

from aspo_rllib import TINY_MODEL
from envs.adapters.gem import GemEnv
from envs.adapters.trl import correctness_reward
from envs.adapters.verl import compute_score
from envs.arithmetic import ArithmeticEnv

SUM = json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})
PROGRAM = "```python\nprint(sum(map(int, input().split())))\n```"


@pytest.mark.parametrize(
    ("ground_truth", "completion", "score", "status"),
    [
        ("1/2", r"so \boxed{0.5}", 1.0, "ok"),
        ("1/2", r"so \boxed{0.6}", 0.0, "wrong"),
        ('["2", "3"]', r"\boxed{3}", 1.0, "ok"),
        ("1/2", "0.5", 0.0, "no_answer"),
        (SUM, PROGRAM, 1.0, "ok"),
        (SUM, PROGRAM.replace("sum", "max"), 0.0, "wrong"),
    ],
)
def test_verl_gets_a_score_and_what_to_log(ground_truth, completion, score, status):
    result = compute_score("any", completion, ground_truth, extra_info={"index": 0})
    assert (result["score"], result["acc"], result["status"]) == (score, score == 1.0, status)


def test_verl_hears_of_a_ground_truth_that_is_none():
    with pytest.raises(ValueError, match="ground_truth"):
        compute_score("any", "x", "")


def test_trl_rewards_by_the_columns_of_the_data_set():
    conversation = [[{"role": "user", "content": "1+1?"}]] * 2
    completions = [[{"role": "assistant", "content": rf"\boxed{{{n}}}"}] for n in (2, 3)]
    assert correctness_reward(conversation, completions, solution=["$2$", "$2$"]) == [1.0, 0.0]
    truth = [{"ground_truth": SUM}]
    assert correctness_reward(["Add."], [PROGRAM], reward_model=truth, trainer_state=object()) == [1.0]


def test_a_real_trl_trainer_takes_it(tmp_path):
    from trl import GRPOConfig, GRPOTrainer  # slow, and no other test needs it

    data = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"{n}+{n}="}], "solution": str(2 * n)} for n in range(4)]
    )
    rewards = []

    def reward(**batch):
        rewards.extend(correctness_reward(**batch))
        return rewards[-len(batch["completions"]) :]

    arguments = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    GRPOTrainer(TINY_MODEL, reward_funcs=reward, args=arguments, train_dataset=data).train()
    assert rewards == [0.0] * 4  # the bundled model knows nothing of boxes


def test_gem_drives_a_text_env():
    env = GemEnv(ArithmeticEnv(digits=2))
    assert isinstance(env, gem.Env)
    prompt, info = env.reset(seed=3)
    assert (prompt, info["index"]) == (env.reset(seed=3)[0], ArithmeticEnv(digits=2).reset(seed=3)[1]["index"])
    left, right = map(int, prompt.removesuffix("=").split("+"))
    assert env.step(str(left + right))[:4] == ("", 1.0, True, False)
    assert isinstance(env.sample_random_action(), str)


def test_gems_vector_env_takes_several():
    vector = SyncVectorEnv([lambda: GemEnv(ArithmeticEnv(digits=1))] * 2)
    prompts, _ = vector.reset(seed=0)
    answers = [str(sum(map(int, prompt.removesuffix("=").split("+")))) for prompt in prompts]
    _, rewards, terminated, _, _ = vector.step(answers)
    assert list(rewards) == [1.0, 1.0] and all(terminated)
