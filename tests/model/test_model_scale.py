"""The learner's room at scale: logits in tiles, packed rows, FSDP2 over two gloo ranks, LoRA. Ratios, not seconds."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from aspo_rllib.learner.batching import build_train_batches, cut_microbatches
from aspo_rllib.model import logprobs
from aspo_rllib.model.layers import compile_layers, recompute_layers
from aspo_rllib.model.layouts import LAYOUTS, packed_tokens, padded_tokens, resolve_layout
from aspo_rllib.model.logprobs import LogitShape, linear_logprobs, token_logprobs
from aspo_rllib.model.lora import adapter_weights, load_adapters
from aspo_rllib.model.packing import SEQUENCE_ATTENTION, pack_rows, pad_rows, share_prompts
from aspo_rllib.model.policy import load_policy
from aspo_rllib.model.sharding import full_weights, shard_policy
from aspo_rllib.types import Rollout, RolloutGroup

VOCABULARY = 67
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "mixtral": (MixtralConfig, MixtralForCausalLM, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6, "head_dim": 8}),
}
CASES = [("qwen2", True), ("qwen2", False), ("qwen3", True), ("qwen3", False), ("llama", True), ("llama", False)]
CASES += [("qwen3_moe", False), ("mixtral", False)]
LORA = {"r": 2, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}


def save_tiny(folder, family: str, tied: bool) -> str:
    """A random model of two layers, in `folder`."""
    config_class, model_class, extra = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,  # the usual 0.02 makes all distributions uniform, and errors invisible
        tie_word_embeddings=tied,
        **extra,
    )
    model_class(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(family, tied) -> folder."""
    made = {}

    def get(family: str, tied: bool) -> str:
        if (family, tied) not in made:
            made[family, tied] = save_tiny(tmp_path_factory.mktemp("model"), family, tied)
        return made[family, tied]

    return get


def rollouts(num: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Prompts and completions whose lengths spread about 10:1."""
    rng = np.random.default_rng(0)
    lengths = [(1 + 3 * i % 7, 2 + 5 * i % 23) for i in range(num)]
    return tuple([rng.integers(0, VOCABULARY, pair[k]).astype(np.int32) for pair in lengths] for k in (0, 1))


def loss_of(logprob_rows: torch.Tensor, entropy_rows: torch.Tensor, first: int = 0) -> torch.Tensor:
    """A sum in which every token counts differently, by its rollout's number and its place."""
    weights = torch.cos(torch.arange(logprob_rows.shape[1]) + 3.0 * (first + torch.arange(len(logprob_rows)))[:, None])
    return (weights * logprob_rows + 0.3 * entropy_rows).sum()


def gradients(policy) -> dict[str, torch.Tensor]:
    """Name -> whole gradient; collective if the policy is sharded."""
    grads = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    return {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in grads.items()}


def run(policy, layout, prompts, completions, temperature: float = 0.7):
    """Logprobs and entropies of each completion, and all gradients."""
    policy.zero_grad()
    logprob_rows, entropy_rows = policy(layout(prompts, completions, "cpu"), temperature)
    loss_of(logprob_rows, entropy_rows).backward()
    cut = [
        torch.cat([row[: len(c)] for row, c in zip(x.detach(), completions, strict=True)])
        for x in (logprob_rows, entropy_rows)
    ]
    return *cut, gradients(policy)


def assert_same(found, expected, tolerance: float = 1e-5) -> None:
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)
    assert_same_gradients(found[2], expected[2], tolerance)


def assert_same_gradients(found: dict, expected: dict, tolerance: float) -> None:
    """Each parameter's gradient is right up to `tolerance` times its size."""
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        error = ((found[name] - grad).norm() / grad.norm()).item()
        assert error < tolerance, f"{name}: {error}"


# ---- the head --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(logprobs.TILES, "cpu", (5, 7))


def head_inputs(dtype=torch.float64, n: int = 13, v: int = 23, d: int = 6):
    torch.manual_seed(1)
    hidden, weight = torch.randn(n, d, dtype=dtype), torch.randn(v, d, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(v, (n,))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tiles_match_plain_logits(small_tiles, temperature):
    hidden, weight, targets = head_inputs(torch.float32)
    expected = token_logprobs(hidden @ weight.T / temperature, targets)
    found = linear_logprobs(hidden, weight, targets, temperature)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    grads = [torch.autograd.grad((x[0] - 2 * x[1]).sum(), (hidden, weight)) for x in (found, expected)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("outputs", [(0,), (1,), (0, 1)], ids=["logprobs", "entropy", "both"])
@pytest.mark.parametrize("frozen", [None, "hidden", "weight"])
@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(2.0, 1.5)], ids=["plain", "capped"])
def test_gradcheck(small_tiles, outputs, frozen, shape):
    hidden, weight, targets = head_inputs()
    hidden.requires_grad_(frozen != "hidden")
    weight.requires_grad_(frozen != "weight")

    def some(h, w):
        both = linear_logprobs(h, w, targets, 0.7, shape)
        return tuple(both[i] for i in outputs)

    assert torch.autograd.gradcheck(some, (hidden, weight))


def test_extreme_logits(small_tiles):
    """Logits of hundreds: nothing overflows, entropy goes to 0, gradients stay finite."""
    hidden, weight, targets = head_inputs(torch.float32)
    values, entropy = linear_logprobs(hidden * 300, weight, targets)
    expected, expected_entropy = token_logprobs(hidden * 300 @ weight.T, targets)
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-4, rtol=1e-4)
    for grad in torch.autograd.grad(values.sum() + entropy.sum(), (hidden, weight)):
        assert grad.isfinite().all()


def test_low_precision_operands_but_float32_softmax(small_tiles):
    hidden, weight, targets = head_inputs(torch.float32, d=64)
    low_hidden, low_weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    exact = token_logprobs(low_hidden.detach().float() @ low_weight.detach().float().T, targets)
    found = linear_logprobs(low_hidden, low_weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = linear_logprobs(hidden, weight, targets)
    for result in (found, autocast):
        for a, b in zip(result, exact, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)  # bfloat16 logits would be 0.05 off
    (found[0].sum() + autocast[0].sum()).backward()
    assert low_weight.grad.dtype == torch.bfloat16 and weight.grad.dtype == torch.float32
    torch.testing.assert_close(low_weight.grad.float(), weight.grad, atol=0.05, rtol=0.05)


def test_logits_never_exist_whole():
    """No tensor of positions x vocabulary, or near it, is made in forward or backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(x, torch.Tensor) and x._base is None:
                    largest = max(largest, x.numel())
            return out

    hidden, weight, targets = head_inputs(torch.float32, n=2048, v=8192, d=8)
    with Watch():
        values, entropy = linear_logprobs(hidden, weight, targets)
        (values.sum() + entropy.sum()).backward()
    assert largest <= 1024 * 1024 < hidden.shape[0] * weight.shape[0] // 8


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "tied"), [*CASES, ("mistral", False)])
def test_packed_is_padded_is_one_by_one(tiny, family, tied):
    policy = load_policy(tiny(family, tied))
    assert policy.hf_model.config._attn_implementation == SEQUENCE_ATTENTION
    prompts, completions = rollouts()
    padded, packed = (run(policy, layout, prompts, completions) for layout in (pad_rows, pack_rows))
    assert_same(packed, padded)

    policy.zero_grad()
    alone = []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        logprob_rows, entropy_rows = policy(pad_rows([prompt], [completion], "cpu"), 0.7)
        loss_of(logprob_rows, entropy_rows, first=i).backward()
        alone.append((logprob_rows[0].detach(), entropy_rows[0].detach()))
    assert_same((*(torch.cat(x) for x in zip(*alone, strict=True)), gradients(policy)), padded)


@pytest.mark.parametrize(("family", "tied"), [*CASES, ("mistral", False)])
def test_a_prompt_that_its_completions_share_is_the_prompt_of_each(tiny, family, tied):
    policy = load_policy(tiny(family, tied))
    prompts, completions = rollouts(7)
    # Not side by side; one prompt is the beginning of another; a completion without a token.
    prompts = [prompts[i] for i in (1, 2, 1, 3, 2, 1)] + [prompts[1][:2]]
    completions[4] = completions[4][:0]
    tokens = share_prompts(prompts, completions, "cpu")
    assert tokens.input_ids.numel() == sum(map(len, [*prompts[:2], prompts[3], prompts[6], *completions]))
    assert_same(run(policy, share_prompts, prompts, completions), run(policy, pad_rows, prompts, completions))


def test_a_shared_row_by_hand():
    a, b = np.array([7, 8], np.int32), np.array([9], np.int32)
    tokens = share_prompts(
        [a, b, a], [np.array([1, 2], np.int32), np.array([3], np.int32), np.array([4], np.int32)], "cpu"
    )
    assert tokens.input_ids.tolist() == [[7, 8, 1, 2, 9, 3, 4]]
    assert tokens.sequences["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert tokens.targets.tolist() == [1, 2, 3, 4]
    assert tokens.predictors.tolist() == [1, 2, 4, 1]  # the last completion's first token follows the 8 of the first
    assert tokens.sequences["copied_from"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 6]
    assert tokens.sequences["first_copies"].tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert tokens.sequences["cu_seq_lens_q"].tolist() == [0, 4, 6, 9]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_other_attentions_agree(tiny, family, implementation):
    """transformers' own masks, made from the positions, say the same: ours has the right window and scale."""
    policy = load_policy(tiny(family, False))
    expected = run(policy, pack_rows, *rollouts())
    policy.hf_model.set_attn_implementation(implementation)
    for layout in (pack_rows, pad_rows):
        assert_same(run(policy, layout, *rollouts()), expected)


def test_unpackable_layers_are_refused(tiny):
    policy = load_policy(tiny("qwen3", False))
    assert resolve_layout(None, policy.hf_model) == "packed" and resolve_layout("padded", policy.hf_model) == "padded"
    policy.hf_model.config.layer_types = ["linear_attention", "full_attention"]
    assert resolve_layout(None, policy.hf_model) == "padded"
    for layout in ("packed", "shared"):
        with pytest.raises(ValueError, match=f"layout='{layout}'.*linear_attention"):
            resolve_layout(layout, policy.hf_model)


def test_shared_prompts_need_our_attention(tiny):
    policy = load_policy(tiny("qwen3", False))
    assert resolve_layout("shared", policy.hf_model) == "shared"
    policy.hf_model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"layout='shared'.*'eager' attention"):
        resolve_layout("shared", policy.hf_model)


def test_cost_of_each_layout():
    lengths = [10, 1, 1, 1, 1, 1, 1, 1]
    assert [len(m) for m in cut_microbatches(lengths, 20, cost=padded_tokens)] == [2, 6]
    assert [len(m) for m in cut_microbatches(lengths, 20, cost=packed_tokens)] == [8]
    for cost in (padded_tokens, packed_tokens):
        cuts = cut_microbatches(lengths, 12, cost=cost)
        assert sorted(i for m in cuts for i in m) == list(range(8))
        assert all(cost([lengths[i] for i in m]) <= 12 for m in cuts)
    assert cut_microbatches([50, 2], 12, cost=packed_tokens) == [[0], [1]]


@pytest.mark.parametrize("longest", [1024, 8192, 32768])
@pytest.mark.parametrize(("layout", "group_size"), [("packed", 1), ("shared", 4)])
def test_one_long_rollout_among_short_ones_does_not_widen_the_loss_of_all(longest, layout, group_size):
    """In one row, the loss has rollouts x longest elements: 125 per token here, if all were in one micro-batch."""
    short = longest // 500 + 1
    units = [longest + (group_size - 1) * short] + [group_size * short] * (500 // group_size)
    budget = 4 * longest
    cuts = cut_microbatches(units, budget, cost=LAYOUTS[layout].cost)
    assert sorted(i for m in cuts for i in m) == list(range(len(units)))
    widest = [longest if 0 in m else short for m in cuts]
    elements = [group_size * len(m) * width for m, width in zip(cuts, widest, strict=True)]
    assert max(elements) < 17 * budget and len(cuts) == 2


def test_cost_reaches_the_train_batches():
    one = Rollout(np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32), "stop", "", 0.0, False, 0)
    ten = Rollout(np.zeros(1, np.int32), np.zeros(9, np.int32), np.zeros(9, np.float32), "stop", "", 0.0, False, 0)
    groups, advantages = [RolloutGroup(0, 0, "", (ten, *(one,) * 5))], [np.zeros(6, np.float32)]
    counts = [
        len(
            build_train_batches(
                groups,
                advantages,
                num_learners=1,
                minibatch_prompts=1,
                max_tokens_per_microbatch=20,
                layout=LAYOUTS[layout],
            )[0]
            .minibatches[0]
            .microbatches
        )
        for layout in ("padded", "packed")
    ]
    assert counts == [2, 1]


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_recomputed_layers_change_nothing(tiny):
    policy = load_policy(tiny("qwen3", True))
    names = set(policy.state_dict())
    expected = run(policy, pack_rows, *rollouts())
    saved_before = saved_elements(policy)
    recompute_layers(policy.hf_model)
    assert_same(run(policy, pack_rows, *rollouts()), expected)
    assert saved_elements(policy) < saved_before / 3
    assert set(policy.state_dict()) == names


def saved_elements(policy) -> int:
    """Elements that autograd keeps for the backward pass."""
    seen: dict[int, int] = {}

    def pack(x):
        seen[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        logprob_rows, _ = policy(pack_rows(*rollouts(), "cpu"))
    parameters = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    del logprob_rows
    return sum(n for pointer, n in seen.items() if pointer not in parameters)


@pytest.mark.slow
def test_compiled_layers_change_nothing(tiny):
    policy = load_policy(tiny("qwen2", True))
    expected = run(policy, pack_rows, *rollouts())
    compile_layers(policy.hf_model)
    recompute_layers(policy.hf_model)
    assert_same(run(policy, pack_rows, *rollouts()), expected)


# ---- LoRA ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def test_lora_trains_adapters_alone_and_merges(peft, tiny, tmp_path):
    folder = tiny("qwen2", True)
    torch.manual_seed(0)
    policy = load_policy(folder, lora=LORA)
    assert {n.split(".")[-3] for n, p in policy.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    before = {n: p.clone() for n, p in policy.named_parameters()}
    expected = run(policy, pack_rows, *rollouts())

    weights = full_weights(policy)
    plain = load_policy(folder)
    assert weights.keys() == plain.hf_model.state_dict().keys()
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters())
    policy.hf_model.save_pretrained(tmp_path, state_dict=weights)
    exported = run(load_policy(str(tmp_path)), pack_rows, *rollouts())
    assert_same((*exported[:2], {}), (*expected[:2], {}))
    assert not torch.allclose(run(plain, pack_rows, *rollouts())[0], expected[0], atol=0.01)


def test_fresh_lora_is_the_base_model(peft, tiny):
    policy = load_policy(tiny("qwen3", False), lora={"r": 2, "target_modules": "all-linear"})
    base = load_policy(tiny("qwen3", False)).hf_model.state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in full_weights(policy).items())


@pytest.mark.parametrize(
    "bad",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
    ],
)
def test_lora_that_cannot_be_merged_is_refused(peft, tiny, bad):
    with pytest.raises(ValueError, match="lora"):
        load_policy(tiny("qwen3", False), lora={"r": 2, "target_modules": "all-linear", **bad})


# ---- FSDP2 -----------------------------------------------------------------------------------------------------------


def on_two_ranks(function, *args) -> None:
    """Run function(rank, *args) on two gloo ranks; raises what a rank raises."""
    mp.spawn(_rank, args=(function, args), nprocs=2)


def _rank(rank: int, function, args) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rendezvous = args[0]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for case in args[1]:
        try:
            function(rank, case)
        except Exception as error:
            raise RuntimeError(f"case {case}") from error
        dist.barrier()
    dist.destroy_process_group()


def split(items: list, rank: int) -> list:
    return items[:2] if rank == 0 else items[2:]


def check_sharded(rank: int, case: dict) -> None:
    """Two sharded ranks, each with its part of the rollouts, do what one process does with all of them."""
    if case.get("frozen"):
        check_frozen(load_policy(case["folder"], meta=rank > 0))
        return
    prompts, completions = rollouts()
    whole = load_policy(case["folder"], lora=case.get("lora"))
    if case.get("lora"):
        share_adapters(whole)

    policy = load_policy(case["folder"], lora=case.get("lora"), meta=rank > 0)
    if case.get("lora") and rank == 0:
        policy.load_state_dict(whole.state_dict())
    if case.get("recompute"):
        recompute_layers(policy.hf_model)
    shard_policy(policy, case.get("dtype", torch.float32), cpu_offload=case.get("cpu_offload", False))
    head, embedding = policy.hf_model.get_output_embeddings(), policy.hf_model.get_input_embeddings()
    assert (head.weight is embedding.weight) == policy.hf_model.config.tie_word_embeddings
    assert all(p.dtype == torch.float32 for p in policy.parameters())
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizers = [
        torch.optim.SGD(trained, lr=1e-3),
        torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=1e-3),
    ]

    tolerance = case.get("tolerance", 1e-5)
    for _ in range(2):  # the second step sees what the first left behind
        expected_values = run(whole, pad_rows, prompts, completions)
        mine, my_completions = split(prompts, rank), split(completions, rank)
        policy.zero_grad()
        batch = case["layout"](mine, my_completions, "cpu")
        with torch.no_grad():
            policy(batch, 0.7)  # as the learner does for old_logprobs
        logprob_rows, entropy_rows = policy(batch, 0.7)
        loss_of(logprob_rows, entropy_rows, first=2 * rank).backward()
        found = torch.cat([row[: len(c)] for row, c in zip(logprob_rows.detach(), my_completions, strict=True)])
        before = sum(len(c) for c in completions[:2]) * rank
        torch.testing.assert_close(found, expected_values[0][before : before + len(found)], atol=tolerance, rtol=0)
        assert_same_gradients(gradients(policy), expected_values[2], tolerance)
        for optimizer in optimizers:
            optimizer.step()

    if case.get("lora"):
        check_adapters_travel(policy, whole, tolerance)
    weights = full_weights(policy)
    assert bool(weights) == (rank == 0)
    if rank == 0:
        expected_weights = full_weights(whole)
        assert weights.keys() == expected_weights.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected_weights[name], atol=tolerance, rtol=tolerance)


def check_adapters_travel(sharded, whole, tolerance: float) -> None:
    """Whole adapters out of a sharded model, and whole ones into it."""
    expected = adapter_weights(whole.hf_model)
    found = adapter_weights(sharded.hf_model)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    halved = {name: 0.5 * tensor for name, tensor in expected.items()}
    for policy in (sharded, whole):
        load_adapters(policy.hf_model, halved)
        assert all(torch.equal(tensor, halved[name]) for name, tensor in adapter_weights(policy.hf_model).items())


def share_adapters(policy) -> None:
    """Random adapters, the same in every process."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.05)


def test_sharded_is_whole(tiny, tmp_path):
    """Every family, tied and untied, in both layouts; bfloat16, recomputed and offloaded ones; adapters.

    One test, because starting two ranks costs more than all cases together.
    """
    cases = [{"folder": tiny(*c), "layout": (pad_rows, pack_rows)[i % 2]} for i, c in enumerate(CASES)]
    cases += [
        {"folder": tiny("qwen3", True), "layout": pack_rows, "recompute": True},
        {"folder": tiny("qwen2", True), "layout": pack_rows, "cpu_offload": True},
        {"folder": tiny("qwen2", True), "frozen": True},
        {"folder": tiny("qwen3", False), "layout": pack_rows, "dtype": torch.bfloat16, "tolerance": 0.2},
    ]
    if find_spec("peft"):
        adapted = {"layout": pack_rows, "lora": LORA}
        cases += [adapted | {"folder": tiny("qwen3", tied), "cpu_offload": tied} for tied in (True, False)]
    on_two_ranks(check_sharded, tmp_path / "rendezvous", cases)


def check_frozen(policy) -> None:
    """A sharded policy that never has a backward pass gives up its whole weights after the forward pass."""
    policy.requires_grad_(False)
    shard_policy(policy, torch.float32)
    with torch.no_grad():
        policy(pad_rows(*rollouts(), "cpu"))
    assert all(isinstance(p, DTensor) for p in policy.parameters())


# ---- GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_flash_attention_on_packed_rows(tiny):
    policy = load_policy(tiny("qwen3", False)).cuda()
    prompts, completions = rollouts()
    with torch.autocast("cuda", torch.bfloat16):
        packed, padded = (policy(layout(prompts, completions, "cuda"))[0] for layout in (pack_rows, pad_rows))
    torch.testing.assert_close(packed, padded, atol=0.1, rtol=0)
    packed.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_on_gpu(dtype):
    hidden, weight, targets = (x.detach().cuda() for x in head_inputs(torch.float32, n=300, v=20_000, d=64))
    hidden, weight = (x.to(dtype).requires_grad_() for x in (hidden, weight))
    expected = token_logprobs(hidden.float() @ weight.float().T, targets)
    found = linear_logprobs(hidden, weight, targets)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
    grads = [torch.autograd.grad(x[0].sum() + x[1].sum(), (hidden, weight)) for x in (found, expected)]
    torch.testing.assert_close(*grads, atol=0.05, rtol=0.05)
