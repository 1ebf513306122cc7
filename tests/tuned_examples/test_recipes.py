"""The recipes for real models: their settings are the paper's, and their runs are stored, refused and resumed."""

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import ray
import yaml
from ray import tune
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.tune.execution.placement_groups import PlacementGroupFactory

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.doctor import resources
from aspo_rllib.recipe import options, run
from aspo_rllib.tune_run import storage_path

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {
    "name": "counting",
    "model": TINY_MODEL,
    "data": "none",
    "iterations": 5,
    "num_env_runners": 1,
    "num_learners": 0,
}
RECIPES = ("math_aspo_1.5b", "code_aspo_1.5b", "qwen3_4b_math", "gsm8k_aspo_0.5b")


def load(name):
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), ROOT / "tuned_examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(name, *arguments):
    recipe = load(name)
    return recipe.make_config(recipe.parser.parse_args(arguments))


# ---- settings -------------------------------------------------------------------------------------------------------

# arXiv 2510.06062, and for the code recipe the authors' release.
PAPER = {
    "loss": "aspo",
    "group_size": 16,
    "batch_prompts": 64,
    "minibatch_prompts": 16,
    "num_epochs": 3,
    "temperature": 1.0,
    "top_p": 1.0,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "weight_cap": 3.0,
    "aggregation": "sequence",
    "kl_coef": 0.001,
    "entropy_coef": 0.0,
    "overlong_buffer_tokens": 16,
    "overlong_penalty_factor": 1.0,
    "drop_uniform_groups": True,
}
PUBLISHED = PAPER | {"lr": 1e-6, "warmup_steps": 120, "max_prompt_tokens": 2048}
HIGH_ENTROPY = {"clip_low_high_entropy": 0.4, "clip_high_high_entropy": 0.4, "kl_coef_high_entropy": 0.0}


@pytest.mark.parametrize(
    ("name", "expected", "evaluation", "gpus"),
    [
        ("math_aspo_1.5b", PUBLISHED | {"max_completion_tokens": 32768}, (30, 64), 8),
        ("code_aspo_1.5b", PUBLISHED | {"max_completion_tokens": 32768} | HIGH_ENTROPY, (279, 8), 8),
        ("qwen3_4b_math", PUBLISHED | {"max_completion_tokens": 8192}, (500, 4), 8),
        ("gsm8k_aspo_0.5b", PAPER | {"max_completion_tokens": 1024}, (256, 4), 1),
    ],
)
def test_a_recipe_is_the_papers(name, expected, evaluation, gpus):
    config = config_of(name)
    config.validate()
    assert {field: getattr(config, field) for field in expected} == expected
    assert config.steps_per_iteration == 12 and config.dtype == "bfloat16"
    held_out = config.get_evaluation_config_object()
    assert (held_out.evaluation_duration, held_out.group_size) == evaluation
    assert (held_out.temperature, held_out.top_p) == (0.8, 0.95)
    training, testing = config.env_config, held_out.env_config
    assert (training["data"], training.get("split")) != (testing["data"], testing["split"])
    assert resources.total(resources.asked_bundles(config))["GPU"] == gpus
    assert config.max_tokens_per_microbatch >= config.max_model_len


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_follows_its_options(name):
    given = {"model": "M", "data": "D", "num-env-runners": 3, "num-learners": 5, "seed": 7}
    config = config_of(name, *(f"--{option}={value}" for option, value in given.items()))
    assert (config.llm_model, config.env_config["data"]) == ("M", "D")
    assert (config.num_env_runners, config.num_learners, config.seed) == (3, 5, 7)
    assert len((ROOT / "tuned_examples" / f"{name}.py").read_text().splitlines()) <= 60


def test_every_recipe_stands_in_the_table():
    table = (ROOT / "tuned_examples" / "README.md").read_text()
    scripts = {path.name for path in (ROOT / "tuned_examples").glob("*.py")} - {"__init__.py"}
    assert {f"{name}.py" for name in RECIPES} < scripts
    assert [name for name in scripts if name not in table] == []


# ---- dry runs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_says_what_is_missing_and_fails():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tuned_examples" / "math_aspo_1.5b.py"), "--dry-run"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "64 prompts x 16 = 1024 rollouts" in done.stdout
    assert "no estimate: the model's config cannot be read" in done.stdout
    assert "33 CPU + 8 GPU, as 1 x (1 CPU), 4 x (8 CPU + 1 GPU), 4 x (1 GPU)" in done.stdout
    assert "asks for 8 GPUs, the cluster has 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_starts_nothing(ray_session, make_config, tmp_path, capsys):
    args = options("Dry.", **DEFAULTS).parse_args(["--storage-path", str(tmp_path), "--dry-run"])
    assert run(make_config(), args) is None
    out = capsys.readouterr().out
    assert "4 prompts x 8 = 32 rollouts" in out and "624,320 parameters" in out and "has these resources" in out
    assert list(tmp_path.iterdir()) == []


# ---- runs under Tune ------------------------------------------------------------------------------------------------


class Counter(tune.Trainable):
    """Counts its iterations, and breaks once at the third if it is told to: any algorithm, to `recipe.run`."""

    @classmethod
    def default_resource_request(cls, config):
        return PlacementGroupFactory([{"CPU": config["num_env_runners"]}])

    def setup(self, config):
        self.count = 0
        self.cpus = config["num_env_runners"]
        self.trap = config["env_config"].get("trap")

    def step(self):
        self.count += 1
        if self.trap and self.count == 3 and os.path.exists(self.trap):
            os.remove(self.trap)
            raise RuntimeError("broken once")
        accuracy = {1: 0.9}.get(self.count, 0.1)
        at_start = {"evaluation_at_start": {"accuracy": 0.0}} if self.count == 1 else {}
        return at_start | {
            "count": self.count,
            "cpus": self.cpus,
            "reward": {"accuracy": accuracy},
            "held_out_accuracy": accuracy,
            "tokens": {"completion": 1},
            "time": {},
        }

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "count.json").write_text(json.dumps(self.count))

    def load_checkpoint(self, checkpoint_dir):
        self.count = json.loads(Path(checkpoint_dir, "count.json").read_text())


@pytest.fixture
def count(ray_session):
    """`count(storage, *options, **env_config)`: five iterations of Counter through `recipe.run`."""
    tune.register_trainable("Counter", Counter)
    parser = options("Counts.", **DEFAULTS)

    def go(storage, *arguments, **env_config):
        args = parser.parse_args(["--storage-path", storage, *arguments])
        config = ASPOConfig(algo_class=Counter).environment("aspo/Arithmetic-v0", env_config=env_config)
        config.env_runners(num_env_runners=args.num_env_runners).debugging(seed=args.seed)
        with contextlib.redirect_stdout(sys.__stdout__):  # Tune pickles the callback, and with it the stream
            return run(
                config.llm(model=TINY_MODEL),
                args,
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=2, checkpoint_score_attribute="held_out_accuracy", checkpoint_frequency=1
                ),
                failure_config=tune.FailureConfig(),
            )

    return go


@pytest.mark.slow
def test_a_run_is_stored_at_a_uri_and_is_not_overwritten(count, tmp_path, capfd):
    result = count(f"file://{tmp_path}/runs")
    assert Path(result.path).name == "aspo_seed0"
    assert (tmp_path / "runs" / "counting").is_dir() and result.metrics["count"] == 5
    # The best by held-out accuracy and the last.
    kept = sorted(json.loads(Path(c.path, "count.json").read_text()) for c, _ in result.best_checkpoints)
    assert kept == [1, 5]
    assert "5/5" in capfd.readouterr().out
    with pytest.raises(SystemExit, match=r"There is a run at file://.*/runs/counting already: use --resume"):
        count(f"file://{tmp_path}/runs")


@pytest.mark.slow
def test_a_broken_run_goes_on_from_its_last_checkpoint(count, tmp_path, capfd):
    trap = tmp_path / "trap"
    trap.touch()
    with pytest.raises(SystemExit, match="The run failed; see"):
        count(str(tmp_path), "--resume", trap=str(trap))  # nothing to go on with: it starts
    assert "starting" in capfd.readouterr().out
    assert not trap.exists()
    result = count(str(tmp_path), "--resume", trap=str(trap))
    assert "resuming" in capfd.readouterr().out
    counted = list(result.metrics_dataframe["count"])
    assert counted == [1, 2, 3, 4, 5]  # not from 1 again
    table = pd.read_csv(Path(result.path, "progress.csv"))
    assert list(table["count"]) == counted and list(table["reward/accuracy"]) == [0.9, 0.1, 0.1, 0.1, 0.1]
    assert list(table["evaluation_at_start/accuracy"].dropna()) == [0.0]


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_iterations_and_runners_but_no_other_seed(count, tmp_path, capfd):
    count(str(tmp_path))
    result = count(str(tmp_path), "--resume", "--iterations", "8", "--num-env-runners", "2")
    assert list(result.metrics_dataframe["count"]) == list(range(1, 9))
    assert list(pd.read_csv(Path(result.path, "progress.csv"))["cpus"]) == [1] * 5 + [2] * 3
    assert "8/8" in capfd.readouterr().out
    assert count(str(tmp_path), "--resume", "--iterations", "8", "--num-env-runners", "2").metrics["count"] == 8
    with pytest.raises(SystemExit, match=r"--resume: The run at .*/counting was begun with seed=0, not 1\. Use"):
        count(str(tmp_path), "--resume", "--seed", "1")


def test_a_folder_is_absolute_and_a_uri_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert storage_path("runs") == str(tmp_path / "runs")
    assert storage_path("~/runs") == str(Path.home() / "runs")
    assert storage_path("s3://bucket/runs?region=x") == "s3://bucket/runs?region=x"


def test_the_engine_is_chosen_on_the_command_line(ray_session, make_config, capfd):
    parser, config = options("A dry run.", **DEFAULTS), make_config()
    for arguments, engine in (((), "vLLM"), (("--engine", "transformers"), "transformers")):
        run(config, parser.parse_args(["--dry-run", *arguments]))
        assert f"1 {engine} runner on CPU" in capfd.readouterr().out
    assert config.engine == "vllm"  # that of the caller


def test_any_setting_can_be_given_on_the_command_line(ray_session, make_config, capfd):
    parser = options("A dry run.", **DEFAULTS)
    given = ["--set", "group_size=2", "--set", "loss=grpo", "--set", "weight_decay=0.5", "--lr", "2e-6"]
    run(make_config(), parser.parse_args(["--dry-run", *given]))
    plan = capfd.readouterr().out
    assert "grpo on aspo/Arithmetic-v0" in plan and "4 prompts x 2 = 8 rollouts" in plan and "lr 2e-06" in plan
    with pytest.raises(SystemExit, match=r"--set 'group_sise=2': .* Did you mean 'group_size'\?"):
        run(make_config(), parser.parse_args(["--set", "group_sise=2"]))
    with pytest.raises(SystemExit, match="--set 'group_size': expected field=value"):
        run(make_config(), parser.parse_args(["--set", "group_size"]))
    with pytest.raises(ValueError, match="group_size=1: expected at least 2"):
        run(make_config(), parser.parse_args(["--set", "group_size=1"]))


def test_the_cpus_of_an_engine_follow_the_machine():
    config = config_of("gsm8k_aspo_0.5b")
    assert resources.fit_cpus(config, [{"CPU": 8, "GPU": 1}]) is None
    assert resources.fit_cpus(config, [{"CPU": 4, "GPU": 0}]) is None  # CPUs are not what is missing
    assert config.num_cpus_per_env_runner == 4
    line = resources.fit_cpus(config, [{"CPU": 4, "GPU": 1}])
    assert line == "cpus        3 per engine, not 4: the machine has no more"
    assert config.num_cpus_per_env_runner == 3 and config.graders == 3


def test_a_run_without_its_gpus_does_not_start(ray_session, make_config, tmp_path):
    args = options("Does not start.", **DEFAULTS).parse_args(["--storage-path", str(tmp_path)])
    config = make_config().llm(tensor_parallel_size=8).env_runners(num_gpus_per_env_runner=8)
    with pytest.raises(SystemExit, match="asks for 8 GPUs, the cluster has 0"):
        run(config, args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", ["tuner", "tune.run"])
def test_tune_finds_the_algorithm_by_name_and_reports_its_refusal(ray_session, make_config, tmp_path, start):
    config = make_config().llm(model="/no/such/model")
    with pytest.raises(ValueError, match=r"llm_model='/no/such/model': expected a folder with a config\.json"):
        if start == "tuner":
            tune.Tuner("ASPO", param_space=config, run_config=tune.RunConfig(storage_path=str(tmp_path))).fit()
        else:
            tune.run("ASPO", config=config, storage_path=str(tmp_path), verbose=0)


# ---- clusters -------------------------------------------------------------------------------------------------------


def arguments_of(command: str) -> tuple[str, argparse.Namespace]:
    """The recipe that a command line runs, its options understood."""
    words = command.split()
    (position,) = [i for i, word in enumerate(words) if word.endswith(".py")]
    name = Path(words[position]).stem
    return name, load(name).parser.parse_args([w for w in words[position + 1 :] if w != "--"])


def assert_holds(nodes, name, args):
    """The recipe finds its resources there, learners and algorithm on one node."""
    bundles = resources.asked_bundles(load(name).make_config(args))
    assert resources.shortage(bundles, nodes) is None
    assert any(resources.shortage([resources.total(bundles)], [node]) is None for node in nodes)
    assert nodes[0]["CPU"] == 0  # the head takes nothing


def test_the_rayjob_is_one_and_holds_its_recipe():
    claim, job = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert spec["shutdownAfterJobFinishes"] is True
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"].keys() == {"HF_HOME", "ASPO_CACHE"}

    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"] and workers["groupName"]
    for group in (head, workers):
        (container,) = group["template"]["spec"]["containers"]
        volumes = {v["name"]: v for v in group["template"]["spec"]["volumes"]}
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert ray.__version__ in container["image"] and container["name"]
        assert mounts.keys() == volumes.keys() and mounts["runs"] == "/runs"
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert isinstance(group["rayStartParams"], dict)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # KubeRay takes no others
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]

    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    node = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
    name, args = arguments_of(spec["entrypoint"])
    assert args.resume and args.storage_path == "/runs"
    assert_holds([{"CPU": float(head["rayStartParams"]["num-cpus"])}, *[node] * workers["replicas"]], name, args)


def test_the_cluster_is_one_that_ray_up_takes_and_holds_its_recipe():
    text = (ROOT / "deploy" / "cluster.yaml").read_text()
    cluster = prepare_config(yaml.safe_load(text))
    validate_config(cluster)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types and ray.__version__ in cluster["docker"]["image"]
    nodes = [types["head"]["resources"], *[types["gpu"]["resources"]] * types["gpu"]["max_workers"]]

    comment = text[: text.index("cluster_name")].replace("\\\n#", "").replace("#", "")
    (command,) = [line for line in comment.splitlines() if "ray submit" in line]
    name, args = arguments_of(command)
    assert args.storage_path.startswith("s3://") and args.wait_for_nodes_s > 0
    assert_holds(nodes, name, args)
