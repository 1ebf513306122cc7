"""Tiny random models of many classes against plain transformers: every layout, gradients, export, sync.

As a script, `PYTHONPATH=.:tests python tests/model/test_zoo.py` writes docs/models.md. With the arguments
`ENGINE CLASS...` it prints for each class how far the engine's logprobs are from the learner's, as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from zoo import random_model

from aspo_rllib import TINY_MODEL
from aspo_rllib.learner.checkpoints import export_hf
from aspo_rllib.model.companions import load_tokenizer
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.policy import Policy, load_policy, stream_weights
from aspo_rllib.model.scoring_check import choose_scoring
from aspo_rllib.model.sharding import full_weights
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine
from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine

ROOT = Path(__file__).parents[2]
CLASSES = """
    llama qwen2 qwen2_window qwen3 mistral gemma gemma2 gemma3 gemma4 phi3 gpt2 gpt_neox opt bloom olmo2 olmo3
    starcoder2 stablelm smollm3 glm4 exaone4 cohere cohere2 granite granitemoe deepseek_v3 mixtral qwen3_moe olmoe
    gpt_oss nemotron phimoe llama4 falcon_h1 lfm2 seed_oss
""".split()  # noqa: SIM905
# One of each kind: plain, tied heads, a head that vLLM does not name, and experts that it packs in two ways.
SYNCED = "llama gemma3 bloom gpt2 mixtral qwen3_moe".split()  # noqa: SIM905
ENGINES = ("transformers", "vllm")
DOC = ROOT / "docs" / "models.md"
MAX_TOKENS = 40
TEMPERATURE = 0.7
TRAINED, REFUSED, UNTRIED = "yes", "refused", "not tried"


def rows():
    """Two prompts, one of them twice, and one longer than the sliding windows."""
    rng = np.random.default_rng(3)
    prompts, completions = ([rng.integers(3, 300, n) for n in side] for side in ((2, 18, 5), (9, 13, 7)))
    prompts[2] = prompts[0]
    return prompts, completions


def objective(logprobs, entropies):
    """A scalar in which every token has another weight. Both arguments have an array for each completion."""
    weights = [torch.linspace(-1, 2, len(row)) for row in logprobs]
    return sum((w * row).sum() for w, row in zip(weights, logprobs, strict=True)) + sum(e.sum() / 3 for e in entropies)


def plain(hf_model, prompts, completions):
    """Logprobs and entropies by the model's own forward pass, one rollout at a time."""
    logprobs, entropies = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion]))[None]
        logits = hf_model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        every = logits.log_softmax(-1)
        logprobs.append(every.gather(-1, torch.from_numpy(completion)[:, None])[:, 0])
        entropies.append(-(every.exp() * every).sum(-1))
    return logprobs, entropies


def gradients(model, loss):
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(params, torch.autograd.grad(loss, params.values(), allow_unused=True), strict=True))


def scored(policy, layout, prompts, completions):
    """What `plain` returns, by a layout."""
    found = policy(LAYOUTS[layout].pack(prompts, completions, "cpu"), TEMPERATURE)
    return tuple([row[: len(c)] for row, c in zip(side, completions, strict=True)] for side in found)


def accepted(policy, layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            choose_scoring(policy, layout, MAX_TOKENS)
        except ValueError:
            return False
    return True


def layouts_of(folder):
    """Layout -> TRAINED or REFUSED, for the model of a folder. Asserts that what is accepted is right."""
    prompts, completions = rows()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = plain(reference, prompts, completions)
    expected_gradients = gradients(reference, objective(*expected))
    # The gradients of key biases are zero but for rounding.
    rounding = 1e-5 * max(float(g.norm()) for g in expected_gradients.values() if g is not None)
    verdicts = {}
    for layout in LAYOUTS:
        policy = load_policy(folder)
        verdicts[layout] = TRAINED if accepted(policy, layout) else REFUSED
        if verdicts[layout] == REFUSED:
            continue
        found = scored(policy, layout, prompts, completions)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.cat(ours), torch.cat(theirs), atol=2e-5, rtol=0)
        ours = gradients(policy.hf_model, objective(*found))
        for name, gradient in expected_gradients.items():
            if gradient is not None:
                assert (ours[name] - gradient).norm() < 1e-3 * gradient.norm() + rounding, (layout, name)
    return verdicts


def documented():
    """Class -> its row in docs/models.md, by the names of the columns."""
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(header, row, strict=True)) for row in body}


@pytest.fixture
def folder(request, tmp_path):
    random_model(request.param).save_pretrained(tmp_path)
    return request.param, str(tmp_path)


@pytest.mark.parametrize("folder", CLASSES, indirect=True, ids=str)
def test_logprobs_and_gradients_of_every_layout_are_those_of_transformers(folder):
    name, path = folder
    verdicts = layouts_of(path)
    assert verdicts["padded"] == TRAINED
    assert verdicts.items() <= documented()[name].items()


@pytest.mark.parametrize("folder", CLASSES, indirect=True, ids=str)
def test_what_is_exported_is_loaded_with_the_trained_weights(folder, tmp_path_factory):
    policy, exported = load_policy(folder[1]), tmp_path_factory.mktemp("exported")
    change(policy)
    tokenizer = load_tokenizer(TINY_MODEL, trust_remote_code=False, chat_template=None)
    export_hf(exported, policy, full_weights(policy), GenerationConfig(), tokenizer)
    again = load_policy(str(exported))
    trained = policy.hf_model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in again.hf_model.state_dict().items())


# ---- engines ------------------------------------------------------------------------------------------------------


def change(policy: Policy):
    """Change all weights, as many updates would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * parameter.std().nan_to_num(0.1) * torch.randn_like(parameter)


def make(engine, model):
    settings = {"dtype": "float32", "max_model_len": MAX_TOKENS, "max_num_seqs": 4, "seed": 0}
    if engine == "transformers":
        return TransformersEngine(model, **settings)
    memory = {"kv_cache_memory_bytes": 1 << 26, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 1}
    return VLLMEngine(model, **settings, **memory)


def drift(engine, policy):
    """Largest difference between the engine's logprobs of its own completions and the learner's."""
    prompts, _ = rows()
    for n, prompt in enumerate(prompts):
        sampling = {"temperature": TEMPERATURE, "top_p": 1.0, "max_tokens": 6, "stop_token_ids": [], "seed": n}
        engine.submit(str(n), prompt.astype(np.int32), **sampling)
    finished = []
    while engine.busy:
        finished += engine.step()
    finished.sort(key=lambda completion: completion.request_id)
    with torch.no_grad():
        found, _ = scored(policy, "padded", prompts, [c.completion_ids.astype(np.int64) for c in finished])
    return max(float(np.abs(f.numpy() - c.sampler_logprobs).max()) for f, c in zip(found, finished, strict=True))


def synced(engine_name, name):
    """Drifts of an engine: as loaded from the folder, with changed weights not yet sent, and after a sync."""
    with tempfile.TemporaryDirectory() as folder:
        random_model(name).save_pretrained(folder)
        policy = load_policy(folder)
        assert accepted(policy, "padded")
        engine = make(engine_name, folder)
        drifts = {"booted": drift(engine, policy)}
        change(policy)
        drifts["stale"] = drift(engine, policy)
        weights = [(name, tensor) for names, tensor in stream_weights(policy) for name in names]
        drifts["stale_weight"] = max(engine.weight_errors(weights).values())
        engine.load_weights(weights)
        drifts["synced"] = drift(engine, policy)
        drifts["worst_weight"] = max(engine.weight_errors(weights).values())
        engine.close()
    return drifts


def sync_in_a_process(engine_name, names):
    """Class -> what `synced` returns, or {"error": ...}. vLLM changes settings of the process that it runs in."""
    script = [sys.executable, __file__, engine_name, *names]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=env)
    found = [json.loads(line.removeprefix("zoo ")) for line in done.stdout.splitlines() if line.startswith("zoo ")]
    assert [name for name, _ in found] == list(names), done.stderr[-3000:]
    return dict(found)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_after_a_sync_the_engine_has_the_learners_probabilities(engine):
    for name, drifts in sync_in_a_process(engine, SYNCED).items():
        assert documented()[name][engine] == TRAINED, name
        assert drifts["stale"] > 0.1, (name, drifts)  # the weights have changed
        assert drifts["booted"] < 1e-3 and drifts["synced"] < 1e-3, (name, drifts)
        assert drifts["worst_weight"] < 1e-5 < 0.01 < drifts["stale_weight"], (name, drifts)


# ---- docs/models.md -----------------------------------------------------------------------------------------------

HEADER = """# Models

Any Hugging Face causal LM can be trained. When a model is loaded, short random rollouts are scored by the layout in use
and by a plain forward pass of transformers; a layout that differs is refused by name, and with `layout=None` the
rollouts are padded. After the first sync the engine's logprobs are compared with the learner's.

This table is written by `PYTHONPATH=.:tests python tests/model/test_zoo.py`. Every class was tried as a tiny random
model in float32 on CPUs. In the columns of the layouts, `yes` means that logprobs and gradients are those of
transformers. In the columns of the engines, `yes` means that the engine has the learner's probabilities after it
started and after a sync. What is `refused` ends with a message that names the class or the engine before anything is
trained.

"""


def verdict(drifts):
    right = "error" not in drifts and drifts["booted"] < 1e-3 and drifts["synced"] < 1e-3
    return TRAINED if right else REFUSED


def write_doc(*tried):
    """Write docs/models.md. An engine that is not among `tried` keeps a column of its own, which says so."""
    engines = {engine: sync_in_a_process(engine, CLASSES) for engine in tried}
    table = [["class", "architecture", *LAYOUTS, *ENGINES]]
    for name in CLASSES:
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(name)
            model.save_pretrained(folder)
            layouts = layouts_of(folder)
        table.append(
            [
                name,
                f"`{type(model).__name__}`",
                *layouts.values(),
                *(verdict(engines[e][name]) if e in tried else UNTRIED for e in ENGINES),
            ]
        )
    table.insert(1, ["---"] * len(table[0]))
    DOC.write_text(HEADER + "".join(f"| {' | '.join(row)} |\n" for row in table))
    for engine, found in engines.items():
        for name, drifts in found.items():
            if verdict(drifts) == REFUSED:
                print(engine, name, drifts)


def print_syncs(engine, names):
    for name in names:
        try:
            found = synced(engine, name)
        except Exception as error:  # what an engine refuses is a result
            found = {"error": f"{type(error).__name__}: {error}"}
        print("zoo " + json.dumps([name, found]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_syncs(sys.argv[1], sys.argv[2:])
    else:
        write_doc(*ENGINES)
