"""Plain functions as rewards, called as TRL calls them."""

import json

import pytest
import reward_examples
from datasets import Dataset

from aspo_rllib import TINY_MODEL
from envs.math import MathEnv
from envs.mixture import MixEnv
from envs.prompts import PromptsEnv
from envs.text_env import Grade

ROWS = [
    {"prompt": "What is 1+1?", "answer": "2", "level": 4},
    {"prompt": "What is 2+2?", "answer": "4", "level": None},
]


@pytest.fixture
def make_env(tmp_path):
    """`make_env(rewards, rows)`: a math env over these rows with these reward functions."""

    def make(rewards, rows=ROWS):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return MathEnv(str(path), rewards=rewards, cache_dir=tmp_path / "cache")

    return make


def rewards_of(env, index, completion):
    env.reset(options={"index": index})
    _, reward, _, _, info = env.step(completion)
    return reward, info["rewards"], info["correct"]


def test_functions_get_texts_and_columns_and_may_not_apply(make_env):
    # 12 characters of prompt; the completion has 24, level 4: 24 / (4 * 12) = 0.5.
    env = make_env(["reward_examples:length_reward", reward_examples.asynchronous])
    completion = r"So we get it: \boxed{2}."
    assert len(completion) == 24
    assert env.reward_names == ("correct", "length_reward", "asynchronous")
    assert rewards_of(env, 0, completion) == (2.5, {"correct": 1.0, "length_reward": 0.5, "asynchronous": 1.0}, True)
    assert rewards_of(env, 1, "no") == (0.0, {"correct": 0.0, "length_reward": None, "asynchronous": 0.0}, False)


def test_rows_with_messages_give_functions_messages(make_env):
    rows = [{"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}]
    env = make_env([reward_examples.format_reward], rows)
    assert rewards_of(env, 0, r"<think>\n1</think>\boxed{2}")[1] == {"correct": 1.0, "format_reward": 1.0}
    assert rewards_of(env, 0, r"\boxed{2}")[1] == {"correct": 1.0, "format_reward": 0.0}


def test_names_are_those_of_trl(make_env):
    env = make_env([reward_examples.Judge(), reward_examples.length_reward])
    assert env.reward_names == ("correct", "Judge", "length_reward")
    assert rewards_of(make_env([reward_examples.always_half]), 0, "x")[1] == {"correct": 0.0, "Judge": 0.5}


def test_without_functions_nothing_changes(make_env):
    env = make_env([])
    env.reset(options={"index": 0})
    _, reward, _, _, info = env.step(r"\boxed{2}")
    assert reward == 1.0 and "rewards" not in info and env.task(0).columns is None


def test_a_mixture_has_the_rewards_of_its_sets(tmp_path, make_env):
    make_env([])
    sets = {"math": {"env": MathEnv, "data": str(tmp_path / "rows.jsonl"), "rewards": [reward_examples.Judge()]}}
    assert rewards_of(MixEnv(sets), 0, r"\boxed{2}")[1] == {"correct": 1.0, "Judge": 0.25}


@pytest.fixture
def make_prompts_env(tmp_path):
    """`make_prompts_env(rows, rewards, ...)`: an env over rows without answers."""

    def make(rows, rewards, **options):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return PromptsEnv(str(path), rewards=rewards, cache_dir=tmp_path / "cache", **options)

    return make


def test_prompts_without_answers_have_the_functions_rewards_alone(make_prompts_env):
    rows = [{"prompt": "Write 12 ch.", "level": 4}, {"prompt": "Let's think.", "level": None}]
    env = make_prompts_env(rows, [reward_examples.length_reward, "reward_examples:asynchronous"])
    assert len(env) == 2 and env.reward_names == ("length_reward", "asynchronous")
    assert rewards_of(env, 0, "x" * 24) == (0.5, {"length_reward": 0.5, "asynchronous": 0.0}, None)
    assert rewards_of(env, 1, "a box") == (1.0, {"length_reward": None, "asynchronous": 1.0}, None)


def test_prompts_stay_as_they_are(make_prompts_env):
    text = 'How many?\n\nLet\'s think step by step and output the final answer after "####".'
    rows = [
        {"question": text, "answer": None, "data_source": "mine"},
        {"question": "What is 1+1?", "answer": "", "system": "Be kind."},
        {"question": "What is 1+1?", "answer": "a second time", "system": "Be kind."},
        {"question": "   "},
    ]
    env = make_prompts_env(rows, [reward_examples.Judge()], max_bad_frac=0.5)
    assert (len(env), env.tasks.report.bad, env.tasks.report.duplicates) == (2, 1, 1)
    assert (env.task(0).prompt, env.task(0).data_source) == (text, "mine")
    assert env.task(1).history == ({"role": "system", "content": "Be kind."},)


def test_prompts_may_be_messages_in_a_column_of_any_name(make_prompts_env):
    rows = [{"prompt": "not this", "chat": [{"role": "user", "content": "1+1?"}]}]
    env = make_prompts_env(rows, [reward_examples.Judge()], columns={"prompt": "chat"})
    assert env.reset(options={"index": 0})[0] == "1+1?"
    messages = make_prompts_env([{"prompt": rows[0]["chat"]}], [reward_examples.format_reward])
    assert rewards_of(messages, 0, "<think>1</think>2")[:2] == (1.0, {"format_reward": 1.0})


def test_a_mixture_may_have_prompts_without_answers(make_prompts_env, tmp_path):
    make_prompts_env([{"prompt": "Hello"}], [reward_examples.Judge()])
    sets = {
        "chat": {
            "env": "aspo/Prompts-v0",
            "data": str(tmp_path / "prompts.jsonl"),
            "rewards": [reward_examples.Judge()],
        }
    }
    assert rewards_of(MixEnv(sets), 0, "x") == (0.25, {"Judge": 0.25}, None)


def test_prompts_without_reward_functions_are_refused(make_prompts_env):
    with pytest.raises(ValueError, match="rewards is missing: give PromptsEnv functions"):
        make_prompts_env([{"prompt": "Hello"}], [])
    with pytest.raises(ValueError, match="no column has the prompt: instruction; say which one by columns="):
        make_prompts_env([{"instruction": "Hello"}], [reward_examples.Judge()])


def test_rows_without_answers_in_the_math_env_point_to_the_other_one(make_env):
    with pytest.raises(ValueError, match="rows without an answer, for reward functions alone, are for aspo/Prompts-v0"):
        make_env([reward_examples.Judge()], [{"prompt": "Hello"}])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ("reward_examples:format_reward", "expected a list of functions"),
        (["format_reward"], "'format_reward' is neither a function nor"),
        ([3], "3 is neither a function nor"),
        (["no_such_module:f"], "'no_such_module:f' cannot be imported"),
        (["reward_examples:nothing"], "'reward_examples:nothing' cannot be imported"),
        (["reward_examples:not_a_function"], "is a int, not a function"),
        ([reward_examples.Judge(), reward_examples.always_half], "two rewards have the name 'Judge'"),
        ([lambda completions, **kwargs: [1.0]], "'<lambda>' is not the name of a reward"),
    ],
)
def test_what_is_no_reward_function_is_named(make_env, rewards, message):
    with pytest.raises(ValueError, match=message):
        make_env(rewards)


@pytest.mark.parametrize("function", [reward_examples.two_rewards, reward_examples.a_number])
def test_a_function_gives_one_reward_per_completion(make_env, function):
    env = make_env([function])
    env.reset(options={"index": 0})
    with pytest.raises(ValueError, match=f"the reward function '{function.__name__}' returned"):
        env.step("x")


@pytest.mark.parametrize("name", ["mean", "group_std", "accuracy", "a/b", "a--b", "a+b", "a@2", "", 3])
def test_a_grade_refuses_names_that_cannot_be_logged(name):
    with pytest.raises(ValueError, match=r"Grade\.rewards: .* is not the name of a reward"):
        Grade(1.0, None, None, "ok", rewards={name: 1.0})


def test_a_real_trl_trainer_gives_the_same_rewards(make_env, tmp_path):
    """The same functions and rows: what TRL logs is the mean of what the env gives."""
    from trl import GRPOConfig, GRPOTrainer  # slow, and no other test needs it

    seen = []

    def recorded(prompts, completions, level, **kwargs):
        rewards = reward_examples.length_reward(prompts, completions, level)
        seen.extend(zip(prompts, completions, rewards, strict=True))
        return rewards

    arguments = GRPOConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    GRPOTrainer(TINY_MODEL, reward_funcs=recorded, args=arguments, train_dataset=Dataset.from_list(ROWS)).train()
    env = make_env([reward_examples.length_reward])
    index = {env.task(i).prompt: i for i in range(2)}
    assert len(seen) >= 4
    for prompt, completion, reward in seen:
        assert rewards_of(env, index[prompt], completion)[1]["length_reward"] == reward
