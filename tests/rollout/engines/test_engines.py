"""One contract, two engines: real ones, each in an actor of its own, on the bundled model."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import ray
import torch
import zoo
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, MambaConfig, MistralConfig, Qwen3Config

from aspo_rllib import TINY_MODEL
from aspo_rllib.model.lora import adapter_weights
from aspo_rllib.model.policy import load_policy
from aspo_rllib.model.sharding import full_weights
from aspo_rllib.rollout.engines import hf_engine
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine
from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine, check_argument_names
from aspo_rllib.rollout.stops import cut_at_stop

# Of one token, of several, with a common prefix, and longer than the 128 tokens of a vLLM block.
PROMPTS = [
    np.array(ids, np.int32)
    for ids in ([80], range(70, 79), [65, 66], [65, 66, 67], range(100, 117), [65 + i % 60 for i in range(150)])
]
SETTINGS = {"dtype": "float32", "max_model_len": 180, "max_num_seqs": 4, "seed": 0}  # fewer rows than prompts
VLLM_MEMORY = {
    "kv_cache_memory_bytes": 1 << 27,
    "gpu_memory_utilization": 0.5,
    "tensor_parallel_size": 1,
    "finds_texts": True,
}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "stop_token_ids": []}


@ray.remote(num_cpus=1)
class Host:
    def __init__(self, engine_class, model, settings):
        torch.set_num_threads(1)
        self.engine = engine_class(model, **settings)

    def run(self, func, *args):
        return func(self.engine, *args)


@pytest.fixture(scope="module")
def engines(ray_session):
    """Name -> `run(func, *args)`, which calls func with the engine."""
    hosts = {
        "vllm": Host.remote(VLLMEngine, TINY_MODEL, SETTINGS | VLLM_MEMORY),
        "transformers": Host.remote(TransformersEngine, TINY_MODEL, SETTINGS),
    }
    yield {name: lambda *args, host=host: ray.get(host.run.remote(*args)) for name, host in hosts.items()}
    for host in hosts.values():
        ray.get(host.run.remote(lambda engine: engine.close()))
        ray.kill(host)


@pytest.fixture(params=["vllm", "transformers"])
def run(engines, request):
    return engines[request.param]


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()


def generate(engine, prompts, **sampling):
    """The completions of all prompts, in their order; seeds are 100, 101, ..."""
    submit_all(engine, prompts, **sampling)
    return finish(engine)


def submit_all(engine, prompts, **sampling):
    for n, prompt in enumerate(prompts):
        engine.submit(str(n), prompt, **({"seed": 100 + n} | SAMPLING | sampling))


def finish(engine):
    finished = []
    while engine.busy:
        finished += engine.step()
    return sorted(finished, key=lambda c: int(c.request_id))


def generate_with(**sampling):
    """For an actor: `generate` with these settings."""
    return lambda engine, prompts=PROMPTS: generate(engine, prompts, **sampling)


def forward(model, prompt, completion):
    """Logits that each token of the completion was chosen by, `[T, vocabulary]`, from one plain forward pass."""
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].float()


def logprobs_of(model, prompt, completion, temperature=1.0):
    chosen = torch.from_numpy(completion.astype(np.int64))[:, None]
    return (forward(model, prompt, completion) / temperature).log_softmax(-1).gather(-1, chosen)[:, 0].numpy()


def tokens(completions):
    return [c.completion_ids.tolist() for c in completions]


# ---- sleep --------------------------------------------------------------------------------------------------------


def sleep_and_load(engine, weights):
    before = generate(engine, PROMPTS)
    engine.sleep()
    with pytest.raises(AssertionError):  # it would wait for ever, or read what is not there
        engine.submit("0", PROMPTS[0], **SAMPLING)
    engine.load_weights(weights)
    return before, generate(engine, PROMPTS)


def test_an_engine_that_has_slept_samples_as_before(run, model):
    # On CPUs vLLM gives nothing back, but goes through the same states.
    before, after = run(sleep_and_load, list(model.state_dict().items()))
    assert tokens(before) == tokens(after)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-5)


def test_weights_of_another_model_wake_nobody(engines, model):
    def sleep_and_fail(engine, weights):
        engine.sleep()
        with pytest.raises(ValueError, match=r"model\.norm\.weight is missing or unknown"):
            engine.load_weights([(name, tensor) for name, tensor in weights if name != "model.norm.weight"])
        asleep = engine._asleep
        engine.load_weights(weights)
        return asleep

    assert engines["transformers"](sleep_and_fail, list(model.state_dict().items()))


# ---- what is sampled ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_models_at_the_sampling_temperature(run, model, temperature):
    completions = run(generate_with(temperature=temperature))
    assert len(completions) == len(PROMPTS)
    for prompt, c in zip(PROMPTS, completions, strict=True):
        assert c.completion_ids.dtype == np.int32 and c.sampler_logprobs.dtype == np.float32
        expected = logprobs_of(model, prompt, c.completion_ids, temperature)
        np.testing.assert_allclose(c.sampler_logprobs, expected, atol=1e-4)


def test_top_p_keeps_the_nucleus_and_renormalises(run, model):
    outside = 0
    for prompt, c in zip(PROMPTS, run(generate_with(top_p=0.6)), strict=True):
        for logits, token, logprob in zip(
            forward(model, prompt, c.completion_ids), c.completion_ids, c.sampler_logprobs, strict=True
        ):
            probs, order = logits.softmax(-1).sort(descending=True)
            kept = int((probs.cumsum(0) < 0.6).sum()) + 1
            place = int((order == int(token)).nonzero())
            assert place < kept
            assert logprob == pytest.approx(float((probs[place] / probs[:kept].sum()).log()), abs=1e-4)
            outside += kept < len(probs)
    assert outside > 0


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"min_p": 0.2}, {"top_k": 5, "min_p": 0.05, "top_p": 0.9}])
def test_what_is_left_out_is_renormalised(run, model, settings):
    """min_p is a share of the highest probability, top_k counts what min_p has left, top_p sums what top_k has left."""
    outside = 0
    for prompt, c in zip(PROMPTS, run(generate_with(temperature=1.5, **settings)), strict=True):
        rows = forward(model, prompt, c.completion_ids) / 1.5
        for logits, token, logprob in zip(rows, c.completion_ids, c.sampler_logprobs, strict=True):
            probs, order = logits.softmax(-1).sort(descending=True)
            kept = int((probs >= settings.get("min_p", 0) * probs[0]).sum())
            kept = min(kept, settings.get("top_k", len(probs)))
            left = probs[:kept] / probs[:kept].sum()
            if "top_p" in settings:
                left = left[: int((left.cumsum(0) < settings["top_p"]).sum()) + 1]
            place = int((order == int(token)).nonzero())
            assert place < len(left)
            assert logprob == pytest.approx(float((left[place] / left.sum()).log()), abs=1e-4)
            outside += len(left) < len(probs)
    assert outside > 0


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_repetition_penalty_counts_prompt_and_completion(run, model, temperature):
    for prompt, c in zip(PROMPTS, run(generate_with(temperature=temperature, repetition_penalty=1.7)), strict=True):
        logits = forward(model, prompt, c.completion_ids)
        for t, (row, token, logprob) in enumerate(zip(logits, c.completion_ids, c.sampler_logprobs, strict=True)):
            seen = sorted({*prompt.tolist(), *c.completion_ids[:t].tolist()})
            row[seen] = torch.where(row[seen] > 0, row[seen] / 1.7, row[seen] * 1.7)
            expected = (row / (temperature or 1.0)).log_softmax(-1)
            assert logprob == pytest.approx(float(expected[int(token)]), abs=1e-4)
            assert temperature or int(token) == int(row.argmax())


def test_tokens_follow_the_distribution(run, model):
    prompt = PROMPTS[2]
    drawn = run(generate_with(max_tokens=1, temperature=1.5), [prompt] * 1000)
    counts = np.bincount([c.completion_ids[0] for c in drawn], minlength=model.config.vocab_size)
    expected = 1000 * (forward(model, prompt, np.array([0]))[0] / 1.5).softmax(-1).numpy()
    often = expected >= 5
    assert often.sum() >= 3
    counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    # Seeds are fixed: no chance of failing. A chi-square this far above its mean has a probability below 1e-4.
    chi_square = float((np.square(counts - expected) / np.maximum(expected, 1)).sum())
    degrees = len(expected) - 1
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)


def test_greedy_is_the_same_in_both_engines(engines, model):
    by_vllm, by_transformers = (engines[name](generate_with(temperature=0.0, top_p=0.5)) for name in engines)
    assert tokens(by_vllm) == tokens(by_transformers)
    for prompt, a, b in zip(PROMPTS, by_vllm, by_transformers, strict=True):
        assert forward(model, prompt, a.completion_ids).argmax(-1).tolist() == a.completion_ids.tolist()
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-4)


# ---- seeds --------------------------------------------------------------------------------------------------------


def test_tokens_depend_on_the_seed_and_not_on_what_else_is_running(run):
    together = run(generate_with(temperature=1.5))
    for n, prompt in enumerate(PROMPTS):
        (alone,) = run(generate_with(temperature=1.5, seed=100 + n), [prompt])
        assert tokens([alone]) == tokens([together[n]])
    (other,) = run(generate_with(temperature=1.5, seed=7), PROMPTS[:1])
    assert tokens([other]) != tokens(together[:1])


def test_settings_of_other_requests_change_nothing(run):
    def mixed(engine):
        for n, prompt in enumerate(PROMPTS):
            own = {"temperature": 0.0} if n % 2 else {"top_p": 0.7}
            engine.submit(str(n), prompt, **(SAMPLING | own), seed=100 + n)
        return finish(engine)

    greedy, nucleus, both = run(generate_with(temperature=0.0)), run(generate_with(top_p=0.7)), run(mixed)
    assert tokens(both) == [tokens(greedy if n % 2 else nucleus)[n] for n in range(len(PROMPTS))]


def test_without_a_seed_requests_still_differ(run):
    drawn = tokens(run(generate_with(seed=None, temperature=1.5), [PROMPTS[1]] * 6))
    assert len({tuple(t) for t in drawn}) > 1


# ---- where completions end ----------------------------------------------------------------------------------------


def test_only_a_stop_token_or_the_length_ends_a_completion(run):
    unstopped = run(generate_with())
    assert {len(c.completion_ids) for c in unstopped} == {12}
    assert {c.finish_reason for c in unstopped} == {"length"}
    seen = {int(c.completion_ids[4]) for c in unstopped[:3]}
    stopped = run(generate_with(stop_token_ids=sorted(seen)))
    for before, c in zip(tokens(unstopped), stopped, strict=True):
        places = [n for n, token in enumerate(before) if token in seen]
        length = places[0] + 1 if places else 12
        assert c.completion_ids.tolist() == before[:length] and len(c.sampler_logprobs) == length
        assert c.finish_reason == ("stop" if places else "length")


def test_a_stop_text_ends_a_completion(run):
    """A text over two tokens, and one that is nowhere: the completion ends with the second token."""
    decode = AutoTokenizer.from_pretrained(TINY_MODEL).decode
    unstopped = run(generate_with(temperature=1.5))
    stop = decode(tokens(unstopped)[1][3:5])
    for before, c in zip(tokens(unstopped), run(generate_with(temperature=1.5, stop=[stop, "nowhere"])), strict=True):
        ends = [n for n in range(1, 13) if stop in decode(before[:n])]
        length = ends[0] if ends else 12
        assert c.completion_ids.tolist() == before[:length] and len(c.sampler_logprobs) == length
        assert c.finish_reason == ("stop" if ends else "length")
        assert cut_at_stop(decode(before), [stop]) == (decode(c.completion_ids) if ends else decode(before))


def test_the_last_allowed_token_may_be_a_stop_token(run):
    ((first, *others),) = tokens(run(generate_with(), PROMPTS[:1]))
    place = next(n for n, token in enumerate(others, start=1) if token != first)
    last = others[place - 1]
    for stop, reason in ([], "length"), ([last], "stop"):
        (c,) = run(generate_with(max_tokens=place + 1, stop_token_ids=stop), PROMPTS[:1])
        assert tokens([c]) == [[first, *others[:place]]] and c.finish_reason == reason


def test_max_model_len_cuts_completions(run):
    long, short = run(generate_with(max_tokens=170), [PROMPTS[-1], PROMPTS[0]])
    assert (len(long.completion_ids), long.finish_reason) == (180 - 150, "length")
    assert (len(short.completion_ids), short.finish_reason) == (170, "length")


@pytest.mark.parametrize("prompt_tokens", [0, 180])
def test_prompts_that_leave_no_room_are_refused(run, prompt_tokens):
    with pytest.raises(Exception, match="prompt"):  # of vLLM's own
        run(lambda engine: engine.submit("0", np.full(prompt_tokens, 65, np.int32), **SAMPLING))
    assert not run(lambda engine: engine.busy)


def test_aborted_requests_are_gone_and_the_others_unchanged(run):
    def abort_two(engine):
        submit_all(engine, PROMPTS)
        for _ in range(3):
            engine.step()
        engine.abort(["1", "5", "nobody"])  # the sixth waits for one of four rows
        return finish(engine)

    whole, rest = run(generate_with()), run(abort_two)
    assert [c.request_id for c in rest] == ["0", "2", "3", "4"]
    assert tokens(rest) == [tokens(whole)[n] for n in (0, 2, 3, 4)]
    assert run(lambda engine: engine.step()) == []


# ---- weights ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_model():
    """The bundled model with every weight moved."""
    other = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.3 * parameter.std() * torch.randn_like(parameter)
    return other


def load(engine, weights):
    engine.load_weights([(name, torch.from_numpy(array)) for name, array in weights.items()])


def arrays(model):
    """All weights, tied ones under each of their names."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture
def restored(run, model):
    yield
    run(load, arrays(model))


def test_weights_replaced_in_the_middle_hold_from_the_next_token_on(run, restored, model, other_model):
    def replaced_after_5_steps(engine, weights):
        submit_all(engine, PROMPTS)
        for _ in range(5):
            assert not engine.step()
        load(engine, weights)
        return finish(engine)

    completions = run(replaced_after_5_steps, arrays(other_model))
    unchanged = run(generate_with())  # with the new weights from the start
    for n, (prompt, c) in enumerate(zip(PROMPTS, completions, strict=True)):
        old = 5 if n < 4 else 0  # the last two waited for one of four rows
        before, after = (logprobs_of(m, prompt, c.completion_ids) for m in (model, other_model))
        np.testing.assert_allclose(c.sampler_logprobs[:old], before[:old], atol=1e-4)
        np.testing.assert_allclose(c.sampler_logprobs[old:], after[old:], atol=1e-4)
        assert np.abs(before - after).max() > 0.1
        assert len(c.completion_ids) == 12
    assert tokens(completions[4:]) == tokens(unchanged[4:]) and tokens(completions[:4]) != tokens(unchanged[:4])


def interrupted(engine, weights, num_steps):
    """72 completions of 70 tokens, during which the same weights are loaded once more."""
    submit_all(engine, [PROMPTS[0]] * 72, max_tokens=70)
    for _ in range(num_steps):
        engine.step()
    if num_steps:
        load(engine, weights)
    return finish(engine)


@pytest.mark.slow
def test_more_tokens_are_under_way_than_one_step_takes(ray_session, model):
    # What has been sampled is computed anew under new weights: 72 x 65 tokens here, and vLLM takes 4,096 in a step.
    host = Host.remote(VLLMEngine, TINY_MODEL, SETTINGS | VLLM_MEMORY | {"max_num_seqs": 72, "max_model_len": 96})
    undisturbed, disturbed = (ray.get(host.run.remote(interrupted, arrays(model), steps)) for steps in (0, 60))
    assert [len(c.completion_ids) for c in disturbed] == [70] * 72
    assert tokens(disturbed) == tokens(undisturbed)
    ray.get(host.run.remote(lambda engine: engine.close()))
    ray.kill(host)


def test_a_prompt_seen_before_gets_the_new_weights(run, restored, model, other_model):
    run(generate_with())
    run(load, arrays(other_model))
    for prompt, c in zip(PROMPTS, run(generate_with()), strict=True):
        np.testing.assert_allclose(c.sampler_logprobs, logprobs_of(other_model, prompt, c.completion_ids), atol=1e-4)


# ---- transformers alone -------------------------------------------------------------------------------------------


def small(config_class, **settings):
    shape = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    return config_class(**(shape | heads | {"initializer_range": 0.3} | settings))


ARCHITECTURES = {
    "untied": small(Qwen3Config, tie_word_embeddings=False),
    "sliding window": small(MistralConfig, sliding_window=5),
    "absolute positions": GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("prefill_tokens", [1, 16384])
def test_any_attention_model_is_sampled_exactly(tmp_path, monkeypatch, name, prefill_tokens):
    monkeypatch.setattr(hf_engine, "PREFILL_TOKENS", prefill_tokens)  # 1: one prompt per forward pass
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    model.save_pretrained(tmp_path)
    engine = TransformersEngine(str(tmp_path), **SETTINGS)
    prompts = [prompt % 120 for prompt in PROMPTS]
    for n, c in enumerate(generate(engine, prompts)):
        expected = logprobs_of(model, prompts[n], c.completion_ids)
        np.testing.assert_allclose(c.sampler_logprobs, expected, atol=1e-4)


def test_bfloat16_weights_and_compute(model):
    engine = TransformersEngine(TINY_MODEL, **(SETTINGS | {"dtype": "bfloat16"}))
    assert {p.dtype for p in engine._model.parameters()} == {torch.bfloat16}
    engine.load_weights([(name, tensor.bfloat16()) for name, tensor in model.state_dict().items()])
    distances = [
        np.abs(c.sampler_logprobs - logprobs_of(model, prompt, c.completion_ids)).max()
        for prompt, c in zip(PROMPTS, generate(engine, PROMPTS), strict=True)
    ]
    assert 1e-4 < max(distances) < 1.0


def test_adapters_are_none_before_they_are_loaded_and_then_the_learners(model):
    settings = {"r": 4, "lora_alpha": 3, "target_modules": "all-linear", "init_lora_weights": False}
    engine = TransformersEngine(TINY_MODEL, **SETTINGS, lora=settings)
    torch.manual_seed(2)
    policy = load_policy(TINY_MODEL, lora=settings)  # random adapters that are not zero
    merged = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    merged.load_state_dict(full_weights(policy))

    submit_all(engine, PROMPTS[:3])
    for _ in range(5):
        assert not engine.step()
    engine.load_adapters(list(adapter_weights(policy.hf_model).items()))
    for prompt, c in zip(PROMPTS[:3], finish(engine), strict=True):
        before, after = (logprobs_of(m, prompt, c.completion_ids) for m in (model, merged))
        np.testing.assert_allclose(c.sampler_logprobs, [*before[:5], *after[5:]], atol=1e-4)
        assert np.abs(before - after).max() > 0.1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "model.norm.weight"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "extra"),
    ],
)
def test_other_weights_than_the_models_are_refused(model, change, named):
    engine = TransformersEngine(TINY_MODEL, **SETTINGS)
    weights = dict(model.state_dict())
    change(weights)
    with pytest.raises(ValueError, match=rf"{named} is missing or unknown"):
        engine.load_weights(list(weights.items()))


def test_models_with_other_layers_than_attention_are_refused(tmp_path):
    config = MambaConfig(vocab_size=120, hidden_size=32, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"engine='transformers': expected 'vllm' for llm_model="):
        TransformersEngine(str(tmp_path), **SETTINGS)


@pytest.mark.slow
def test_a_runner_on_transformers_never_imports_vllm():
    program = """
    import sys
    from aspo_rllib import ASPOConfig, TINY_MODEL
    from aspo_rllib.rollout.env_runner import TextEnvRunner
    from envs.arithmetic import ArithmeticEnv

    config = (
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"digits": 3})
        .llm(model=TINY_MODEL, engine="transformers", max_prompt_tokens=32)
        .sampling(group_size=4, max_completion_tokens=8)
    )
    config.validate()
    runner = TextEnvRunner(config=config, env_creator=lambda context: ArithmeticEnv(**context), worker_index=1)
    (group,) = runner.sample(tasks=[(0, 3)])
    runner.stop()
    assert len(group.rollouts) == 4
    print([name for name in sys.modules if name.split(".")[0] == "vllm"])
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("llm", "message"),
    [
        ({"engine": "sglang"}, r"engine='sglang': expected 'vllm' or 'transformers'"),
        ({"engine": "transformers", "tensor_parallel_size": 2}, r"tensor_parallel_size=2: expected 1"),
        ({"engine": "transformers", "kv_cache_memory_bytes": 9}, r"kv_cache_memory_bytes=9: expected None"),
    ],
)
def test_settings_that_an_engine_cannot_follow_are_refused(make_config, llm, message):
    with pytest.raises(ValueError, match=message):
        make_config().llm(**llm).validate()


# ---- end to end ---------------------------------------------------------------------------------------------------


ADAPTERS = {"r": 4, "target_modules": "all-linear"}


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["full", "lora"])
def test_training_on_transformers_keeps_engine_and_learner_together(ray_session, make_config, lora):
    config = make_config(lr=1e-3, drop_uniform_groups=False).llm(engine="transformers", lora=lora)
    algo = config.build_algo()
    try:
        for iteration in (1, 2):
            result = algo.train()
            assert result["sync"]["max_abs_dlogp"] < 1e-4
            assert algo.learner_group.weights().version == iteration
    finally:
        algo.stop()


# ---- further arguments of vLLM -------------------------------------------------------------------------------------


def test_unknown_arguments_of_vllm_are_named_before_it_starts():
    check_argument_names({"max_num_batched_tokens": 512, "speculative_config": None})
    with pytest.raises(ValueError, match=r"'max_num_batched_token' is no engine argument .*'max_num_batched_tokens'"):
        check_argument_names({"max_num_batched_token": 512})


def test_further_arguments_reach_vllm(ray_session):
    kwargs = {"max_num_batched_tokens": 177 * 4}
    host = Host.remote(VLLMEngine, TINY_MODEL, SETTINGS | VLLM_MEMORY | {"engine_kwargs": kwargs})
    reached = ray.get(host.run.remote(lambda e: e._llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens))
    ray.get(host.run.remote(lambda engine: engine.close()))
    assert reached == kwargs["max_num_batched_tokens"]


@pytest.mark.parametrize(
    ("llm", "message"),
    [
        ({"engine_kwargs": {"dtype": "half"}}, r"'dtype' is not expected here: use \.llm\(dtype"),
        ({"engine_kwargs": {"logits_processors": []}}, "it changes the distribution"),
        ({"engine_kwargs": {"x": 1}, "engine": "transformers"}, "expected None with engine='transformers'"),
    ],
)
def test_arguments_that_are_not_for_vllm_are_refused(make_config, llm, message):
    with pytest.raises(ValueError, match=message):
        make_config().llm(**llm).validate()


@pytest.mark.parametrize("setting", ["top_p=0.5", "top_k=4", "min_p=0.1", "repetition_penalty=1.2"])
def test_another_distribution_than_the_learners_is_refused_in_training_or_corrected(make_config, setting):
    name, value = setting.split("=")
    config = make_config().sampling(**{name: type(make_config().to_dict()[name])(value)})
    with pytest.raises(ValueError, match=f"{setting}: expected top_p=1, top_k=0, .* without a sampler_correction"):
        config.copy().validate()
    config.copy().training(sampler_correction="truncated").validate()
    with pytest.raises(ValueError, match=f"old_logprobs='sampler': .*, got {setting}, sampler_correction=None"):
        config.copy().training(old_logprobs="sampler").validate()
    make_config().evaluation(evaluation_config={name: getattr(config, name)}).validate()


# ---- experts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_weights_of_experts_get_into_the_engine(tmp_path, name):
    """The learner's weights have the names of the model in memory, where the experts of a layer are one tensor."""
    random = zoo.random_model(name)
    random.save_pretrained(tmp_path / "0")
    with torch.no_grad():
        for parameter in random.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    random.save_pretrained(tmp_path / "1")
    policy = load_policy(str(tmp_path / "1"))
    engine = TransformersEngine(str(tmp_path / "0"), **SETTINGS)
    prompts = [prompt % policy.hf_model.config.vocab_size for prompt in PROMPTS]
    before = generate(engine, prompts)
    engine.load_weights(list(full_weights(policy).items()))
    for prompt, c in zip(prompts, generate(engine, prompts), strict=True):
        expected = logprobs_of(policy.hf_model, prompt, c.completion_ids)
        np.testing.assert_allclose(c.sampler_logprobs, expected, atol=1e-4)
    assert tokens(before) != tokens(generate(engine, prompts))
