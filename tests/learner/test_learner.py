"""The learner: one optimizer step is one step, however it is cut and however many learners share it."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from aspo_rllib.learner.advantages import grpo
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.learner.learner import ASPOTorchLearner
from aspo_rllib.learner.tally import merge_updates
from aspo_rllib.losses import LOSSES
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.packing import pad_rows
from aspo_rllib.model.policy import load_policy
from envs.text_env import TextSpace

UNEVEN = [[(4, 3), (4, 17), (4, 8), (4, 1)], [(6, 30), (6, 2), (6, 12), (6, 5)], [(2, 5), (2, 6), (2, 29), (2, 9)]]
REWARDS = np.array([[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]], float)


@pytest.fixture(scope="module")
def train_batches(make_groups):
    """`train_batches(num_learners=..., minibatch_prompts=..., ...)` of three uneven groups."""

    def build(num_learners=0, minibatch_prompts=3, max_tokens=100_000, rewards=REWARDS, groups=None, **layout):
        return build_train_batches(
            groups or make_groups(UNEVEN),
            [grpo(r) for r in rewards],
            num_learners=num_learners,
            minibatch_prompts=minibatch_prompts,
            max_tokens_per_microbatch=max_tokens,
            **layout,
        )

    return build


def update(learners, batches):
    """One update; every learner's metrics as one dict."""
    return merge_updates(learners.update(**({"batches": batches} if learners.is_remote else {"batch": batches[0]})))


def local(learners):
    """The learner itself, of a group without actors."""
    return learners.on_all(lambda learner: learner)[0]


# ---- how the batch is cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_micro_batches_change_nothing(build_learners, train_batches, weights_of, largest_difference, aggregation):
    results = []
    for max_tokens in (100_000, 20):
        learners = build_learners(aggregation=aggregation, lr=1e-4)
        before = weights_of(learners)
        batches = train_batches(max_tokens=max_tokens)
        metrics = update(learners, batches)
        results.append((weights_of(learners), metrics, len(batches[0].minibatches[0].microbatches)))
    (whole, whole_metrics, one), (cut, cut_metrics, many) = results
    assert one == 1 and many >= 6
    assert largest_difference(whole, cut) < 1e-6 < 5e-5 < largest_difference(whole, before)
    assert cut_metrics == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in whole_metrics.items()}


def test_an_epoch_is_one_optimizer_step_per_minibatch(build_learners, train_batches):
    learners = build_learners(num_epochs=3)
    assert update(learners, train_batches(minibatch_prompts=1))["optim/steps"] == 3 * 3
    assert update(learners, train_batches(minibatch_prompts=3))["optim/steps"] == 9 + 3


def test_an_update_is_the_hand_written_adamw_step(build_learners, train_batches, weights_of):
    # At ratio 1 the loss's gradient is -sum over tokens of A / (number of tokens) * grad log pi; Adam's first step is
    # lr * g / (|g| + 1e-8) per element, after a gradient clip that leaves that quotient as it is.
    learners = build_learners(aggregation="token", lr=1e-3, grad_clip=None)
    learner = local(learners)
    (batch,) = train_batches()
    loss = 0.0
    for prompt, completion, advantage in zip(batch.prompt_ids, batch.completion_ids, batch.advantages, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
        logprobs = learner.policy.hf_model(input_ids=ids[None]).logits[0].log_softmax(-1)
        chosen = logprobs[torch.arange(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]]
        loss = loss - float(advantage) * chosen.sum() / sum(map(len, batch.completion_ids))
    before = weights_of(learners)
    params = dict(learner.policy.hf_model.named_parameters())
    gradients = dict(zip(params, torch.autograd.grad(loss, params.values()), strict=True))
    update(learners, [batch])
    after = weights_of(learners)
    for name, g in gradients.items():
        solid = g.abs() > 1e-5  # below, rounding decides the quotient
        expected = before[name] - 1e-3 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(after[name][solid], expected[solid], atol=2e-6, rtol=0)


@pytest.fixture(scope="module")
def two_learners(ray_session, make_config, random_model):
    """Two real FSDP2 learners over gloo; each test starts by giving them a config and the initial state."""
    config = make_config(weight_decay=0.0, lr=1e-3, num_epochs=2).llm(model=random_model).learners(num_learners=2)
    learners = config.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
    yield learners
    learners.shutdown()


def start_over(learners, folder, **training):
    """Put learners back to a checkpoint, under other training settings."""

    def reconfigure(learner):
        learner.config = learner.config.copy(copy_frozen=False).training(**training)

    learners.on_all(reconfigure)
    learners.restore_from_path(folder)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_two_fsdp_learners_do_what_one_learner_does(
    build_learners, two_learners, train_batches, weights_of, largest_difference, aggregation, tmp_path
):
    one = build_learners(aggregation=aggregation, num_epochs=2)
    before = weights_of(one)
    one.save_to_path(tmp_path)
    start_over(one, tmp_path)
    start_over(two_learners, tmp_path, aggregation=aggregation)
    assert largest_difference(weights_of(two_learners), before) == 0

    metrics = [
        update(learners, train_batches(num_learners=n, minibatch_prompts=2, max_tokens=64))
        for learners, n in ((one, 1), (two_learners, 2))
    ]
    assert largest_difference(weights_of(one), weights_of(two_learners)) < 1e-5
    assert largest_difference(weights_of(one), before) > 1e-3
    assert metrics[0] == {name: pytest.approx(value, rel=1e-3, abs=1e-5) for name, value in metrics[1].items()}


@pytest.mark.slow
def test_two_fsdp_learners_with_compiled_layers_do_what_one_plain_learner_does(
    build_learners, make_config, random_model, train_batches, weights_of, largest_difference
):
    one = build_learners(num_epochs=2)
    before = weights_of(one)
    config = make_config(weight_decay=0.0, lr=1e-3, num_epochs=2).llm(model=random_model, compile_learner=True)
    config.llm(gradient_checkpointing=True).learners(num_learners=2)
    two = config.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
    try:
        for learners, n in ((one, 1), (two, 2)):
            update(learners, train_batches(num_learners=n, minibatch_prompts=2, max_tokens=64))
        assert largest_difference(weights_of(one), weights_of(two)) < 1e-5
        assert largest_difference(weights_of(one), before) > 1e-3
    finally:
        two.shutdown()


def test_shared_prompts_change_nothing(
    build_learners, two_learners, train_batches, make_groups, weights_of, largest_difference, tmp_path
):
    groups = [
        replace(g, rollouts=tuple(replace(r, prompt_ids=g.rollouts[0].prompt_ids) for r in g.rollouts))
        for g in make_groups(UNEVEN)
    ]
    packed, shared, cut = (build_learners(layout=layout, num_epochs=2) for layout in ("packed", "shared", "shared"))
    before = weights_of(packed)
    packed.save_to_path(tmp_path)
    for learners in (packed, shared, cut, two_learners):
        start_over(learners, tmp_path, aggregation="token", num_epochs=2)
    update(packed, train_batches(groups=groups, minibatch_prompts=2))
    together = {"groups": groups, "minibatch_prompts": 2, "layout": LAYOUTS["shared"]}
    update(shared, train_batches(**together))
    update(cut, train_batches(**together, max_tokens=30))
    two_learners.on_all(lambda learner: setattr(learner, "layout", "shared"))
    update(two_learners, train_batches(**together, num_learners=2))
    two_learners.on_all(lambda learner: setattr(learner, "layout", "packed"))
    for learners in (shared, cut, two_learners):
        assert largest_difference(weights_of(learners), weights_of(packed)) < 1e-5
    assert largest_difference(weights_of(packed), before) > 1e-3


def test_a_learner_without_a_single_rollout_still_takes_part(
    build_learners, two_learners, make_groups, weights_of, largest_difference, tmp_path
):
    # One rollout in all: the second learner has nothing but an empty micro-batch.
    one = build_learners()
    one.save_to_path(tmp_path)
    start_over(one, tmp_path)
    start_over(two_learners, tmp_path, num_epochs=1, aggregation="token")
    for learners, n in ((one, 1), (two_learners, 2)):
        batches = build_train_batches(
            make_groups([[(3, 7)]]),
            [np.array([1.0])],
            num_learners=n,
            minibatch_prompts=1,
            max_tokens_per_microbatch=100,
        )
        metrics = update(learners, batches)
        assert metrics["ratio/mean"] == 1 and metrics["optim/skipped"] == 0
    assert largest_difference(weights_of(one), weights_of(two_learners)) < 1e-5


def test_a_broken_token_on_one_learner_makes_both_skip_the_step(two_learners, train_batches, weights_of, tmp_path):
    two_learners.save_to_path(tmp_path)
    before, steps = weights_of(two_learners), two_learners.on_all(lambda learner: learner.num_optimizer_steps)
    first, second = train_batches(num_learners=2)
    second.advantages[0] = np.inf
    results = two_learners.update(batches=[first, second])
    skipped = [r.values["optim/skipped"] for r in results]
    assert skipped[0] == skipped[1] >= 1
    assert two_learners.on_all(lambda learner: learner.num_optimizer_steps) == steps
    after = weights_of(two_learners)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_exception_in_one_of_two_learners_raises_instead_of_hanging(build_learners, train_batches):
    # Learner 0 waits in a collective for learner 1, which has lost its rows.
    learners = build_learners(num_learners=2)
    first, second = train_batches(num_learners=2)
    broken = replace(second, prompt_ids=())
    outcome = []

    def update():
        try:
            learners.update(batches=[first, broken])
        except Exception as error:
            outcome.append(error)

    driver = threading.Thread(target=update, daemon=True)
    driver.start()
    driver.join(timeout=60)
    for worker in learners._workers:
        ray.kill(worker)  # or the clean-up would wait for learner 0
    assert outcome, "the driver still waits after 60 s"
    assert "IndexError" in str(outcome[0])


# ---- ratios and broken steps --------------------------------------------------------------------------------------


def test_the_ratio_is_exactly_one_in_the_first_step(build_learners, train_batches):
    metrics = update(build_learners(), train_batches(max_tokens=40))
    assert metrics["ratio/mean"] == metrics["ratio/max"] == 1.0
    assert metrics["kl/old"] == metrics["clip/pos_frac"] == metrics["clip/neg_frac"] == 0.0


def test_the_ratio_leaves_one_in_the_second_step(build_learners, train_batches):
    metrics = update(build_learners(num_epochs=2), train_batches())
    assert metrics["ratio/max"] > 1.0 and metrics["kl/old"] > 0.0


def test_the_old_policy_is_the_same_for_all_epochs_of_an_update(build_learners, train_batches):
    # kl/old averages over steps; were the old policy refrozen per step, it would stay 0.
    one, three = (update(build_learners(num_epochs=n), train_batches())["kl/old"] for n in (2, 4))
    assert three > one > 0


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_a_broken_advantage_skips_the_step_and_counts_it(build_learners, train_batches, weights_of, broken):
    learners = build_learners()
    before = weights_of(learners)
    (batch,) = train_batches()
    batch.advantages[2] = broken
    metrics = update(learners, [batch])
    assert (metrics["optim/skipped"], metrics["optim/steps"]) == (1, 0)
    after = weights_of(learners)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_goes_on_after_a_skipped_step(build_learners, train_batches, weights_of, largest_difference):
    skipping, clean = build_learners(), build_learners()
    (broken,), good = train_batches(), train_batches()
    broken.advantages[0] = np.nan
    update(skipping, [broken])
    assert update(skipping, good)["optim/steps"] == 1
    update(clean, good)
    assert largest_difference(weights_of(skipping), weights_of(clean)) == 0


def test_only_the_broken_minibatch_is_skipped(build_learners, train_batches):
    (batch,) = train_batches(minibatch_prompts=1)
    batch.advantages[batch.minibatches[1].microbatches[0][0]] = np.inf
    metrics = update(build_learners(), [batch])
    assert (metrics["optim/skipped"], metrics["optim/steps"]) == (1, 2)
    assert np.isfinite(metrics["optim/grad_norm"])


def test_a_group_of_equal_rewards_moves_nothing(build_learners, train_batches, weights_of):
    learners = build_learners()
    before = weights_of(learners)
    metrics = update(learners, train_batches(rewards=np.ones((3, 4))))
    assert (metrics["optim/skipped"], metrics["optim/grad_norm"]) == (0, 0.0)
    after = weights_of(learners)
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---- learning rate ------------------------------------------------------------------------------------------------


@pytest.fixture
def lr_per_step(build_learners, train_batches, monkeypatch):
    """`lr_per_step(updates, **training)`: what the optimizer was given at each of its steps, three per update."""

    def record(updates, **training):
        learners = build_learners(**training)
        optimizer, rates = local(learners).optimizer, []
        step = optimizer.step
        monkeypatch.setattr(optimizer, "step", lambda: (rates.append(optimizer.param_groups[0]["lr"]), step()))
        for _ in range(updates):
            update(learners, train_batches(minibatch_prompts=1))
        return rates

    return record


def test_the_learning_rate_warms_up_linearly_and_then_stays(lr_per_step):
    # 4 steps of warm-up: 1/4, 2/4, 3/4, 4/4 of 1e-3.
    assert lr_per_step(2, lr=1e-3, warmup_steps=4) == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_a_schedule_counts_optimizer_steps(lr_per_step):
    # From 6e-4 to 0 over 6 steps: 6, 5, 4, 3, 2, 1 e-4.
    rates = lr_per_step(2, lr=[[0, 6e-4], [6, 0.0]])
    assert rates == pytest.approx([6e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4])


@pytest.mark.parametrize("lr", [1e-3, [[0, 6e-4], [6, 0.0]]])
def test_the_rate_that_is_reported_is_that_of_the_last_step(build_learners, train_batches, lr):
    learners = build_learners(lr=lr, warmup_steps=4)
    for _ in range(2):
        metrics = update(learners, train_batches(minibatch_prompts=1))
        assert metrics["optim/lr"] == local(learners).optimizer.param_groups[0]["lr"]


def test_the_first_step_is_taken_at_the_first_rate(lr_per_step):
    assert lr_per_step(1, lr=7e-4) == pytest.approx([7e-4] * 3)


# ---- settings that must have an effect ----------------------------------------------------------------------------


def test_the_reference_is_the_initial_model(build_learners, train_batches):
    learners = build_learners(kl_coef=0.1)
    assert update(learners, train_batches())["kl/ref"] == 0.0
    assert update(learners, train_batches())["kl/ref"] > 0.0


def test_the_loss_is_reported_by_its_terms(build_learners, train_batches):
    learners = build_learners(kl_coef=0.5, aggregation="token", num_epochs=2)
    update(learners, train_batches())
    metrics = update(learners, train_batches(minibatch_prompts=1, max_tokens=20))
    policy, kl, total = (metrics[f"learners/default_policy/{name}_loss"] for name in ("policy", "kl", "total"))
    assert kl > 0 and policy != 0 and total == pytest.approx(policy + kl)
    # Of one mini-batch, aggregated by token, the term is the coefficient times the mean over tokens.
    metrics = update(learners, train_batches(minibatch_prompts=3))
    assert metrics["learners/default_policy/kl_loss"] == pytest.approx(0.5 * metrics["kl/ref"], rel=1e-5)


def test_a_kl_penalty_holds_the_policy_back(build_learners, train_batches):
    drift = []
    for kl_coef in (1e-6, 10.0):
        learners = build_learners(kl_coef=kl_coef, num_epochs=4)
        for _ in range(5):
            metrics = update(learners, train_batches())
        drift.append(metrics["kl/ref"])
    assert drift[1] < 0.5 * drift[0]


def test_without_kl_no_reference_is_kept(build_learners):
    assert local(build_learners(kl_coef=0.0)).reference is None


def train_three_times(build_learners, train_batches, weights_of, **training):
    learners = build_learners(num_epochs=4, **training)
    for _ in range(3):
        metrics = update(learners, train_batches())
    return weights_of(learners), metrics


@pytest.mark.parametrize(
    "setting",
    [
        {"clip_low_high_entropy": 0.9, "clip_high_high_entropy": 5.0},
        {"weight_cap": 1.01},
        {"entropy_coef": 0.5},
        {"clip_high": 0.01},
        {"kl_coef": 0.1, "kl_coef_high_entropy": 5.0},
        {"loss": "grpo"},
        {"loss": "gspo"},
    ],
    ids=str,
)
def test_a_setting_changes_the_training(build_learners, train_batches, weights_of, largest_difference, setting):
    plain = {"lr": 3e-3, "kl_coef": setting.get("kl_coef", 0.0)}
    without, _ = train_three_times(build_learners, train_batches, weights_of, **plain)
    with_it, _ = train_three_times(build_learners, train_batches, weights_of, **(plain | setting))
    assert largest_difference(without, with_it) > 1e-4


def test_wider_clips_on_high_entropy_tokens_clip_less(build_learners, train_batches, weights_of):
    plain = {"lr": 3e-3, "clip_low": 0.02, "clip_high": 0.02, "entropy_quantile": 0.5}
    _, narrow = train_three_times(build_learners, train_batches, weights_of, **plain)
    wide_clips = {"clip_low_high_entropy": 0.99, "clip_high_high_entropy": 100.0}
    _, wide = train_three_times(build_learners, train_batches, weights_of, **plain, **wide_clips)
    assert 0 < wide["clip/pos_frac"] < 0.8 * narrow["clip/pos_frac"]
    assert 0 < wide["clip/neg_frac"] < 0.8 * narrow["clip/neg_frac"]


def test_weight_decay_shrinks_what_has_no_gradient(build_learners, train_batches, weights_of):
    # No gradient at all (equal rewards): w <- w - lr * decay * w = 0.95 w.
    learners = build_learners(lr=0.1, weight_decay=0.5)
    before = weights_of(learners)
    update(learners, train_batches(rewards=np.ones((3, 4))))
    for name, tensor in weights_of(learners).items():
        torch.testing.assert_close(tensor, 0.95 * before[name])


def test_without_decay_norms_norms_and_embeddings_are_not_decayed(build_learners):
    decays = {}
    for decay_norms in (True, False):
        learners = build_learners(lr=0.1, weight_decay=0.5, decay_norms=decay_norms)
        (spared,) = learners.on_all(
            lambda learner: [
                name
                for name, p in learner.policy.hf_model.named_parameters()
                for group in learner.optimizer.param_groups
                if group["weight_decay"] == 0 and any(p is q for q in group["params"])
            ]
        )
        decays[decay_norms] = spared
    assert decays[True] == []
    names = {name.removesuffix(".weight").rpartition(".")[2] for name in decays[False]}
    assert names == {"embed_tokens", "input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm"}


def reinforce(inputs):
    """A user's own token weight, importable by Ray's workers."""
    return torch.ones_like(inputs.ratio)


def test_a_users_own_token_weight_trains(build_learners, train_batches):
    learners = build_learners(loss=reinforce, lr=3e-3, num_epochs=4)
    for _ in range(2):
        metrics = update(learners, train_batches())
    assert metrics["ratio/max"] > 1.2  # far enough for every clip to show
    assert metrics["weight/pos_mean"] == metrics["weight/neg_mean"] == 1.0
    assert metrics["clip/pos_frac"] == metrics["clip/neg_frac"] == 0.0


class DoubledLoss(ASPOTorchLearner):
    def compute_loss_for_module(self, **kwargs):
        self.metrics.log_value("doubled", 7.0, reduce="mean", window=1)
        return 2 * super().compute_loss_for_module(**kwargs)


def test_a_users_own_learner_class_computes_the_loss(make_config, random_model, train_batches, build_learners):
    config = make_config(learner_class=DoubledLoss, weight_decay=0.0).llm(model=random_model)
    doubled = config.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
    plain = build_learners(aggregation="sequence")
    (ours,), (stock,) = (learners.update(batch=train_batches()[0]) for learners in (doubled, plain))
    assert ours.values["optim/grad_norm"] > 1.5 * stock.values["optim/grad_norm"]
    assert "doubled" in ours.learner_metrics and "doubled" not in stock.learner_metrics


def test_temperature_scales_the_learners_logprobs(build_learners, train_batches):
    (batch,) = train_batches()
    scored = {}
    for temperature in (1.0, 0.5):
        learner = local(build_learners(temperature=temperature))
        scored[temperature] = learner.score(list(batch.prompt_ids[:1]), list(batch.completion_ids[:1]))[0]
    ids = torch.from_numpy(np.concatenate([batch.prompt_ids[0], batch.completion_ids[0]]).astype(np.int64))
    logits = learner.policy.hf_model(input_ids=ids[None]).logits[0, len(batch.prompt_ids[0]) - 1 : -1].detach()
    for temperature, ours in scored.items():
        expected = (logits / temperature).log_softmax(-1).gather(-1, ids[len(batch.prompt_ids[0]) :, None])[:, 0]
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_bfloat16_computes_in_bfloat16_over_float32_weights(build_learners, train_batches, weights_of):
    exact, rough = build_learners(), build_learners(dtype="bfloat16")
    (batch,) = train_batches()
    scores = [local(g).score(list(batch.prompt_ids), list(batch.completion_ids)) for g in (exact, rough)]
    error = max(np.abs(a - b).max() for a, b in zip(*scores, strict=True))
    assert 1e-4 < error < 0.5
    update(rough, [batch])
    assert {p.dtype for p in local(rough).policy.parameters()} == {torch.float32}
    assert {t.dtype for t in weights_of(rough).values()} == {torch.bfloat16}


# ---- reference ---------------------------------------------------------------------------------------------------


LORA = {"r": 4, "target_modules": "all-linear"}


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_reset_reference_is_the_policy_again(build_learners, train_batches, lora):
    learners = build_learners(kl_coef=0.1, reference_reset_interval=2, lora=lora)
    kl = [update(learners, train_batches())["kl/ref"] for _ in range(5)]
    # Measured before each step, reset after the 2nd and the 4th update.
    assert kl[0] == kl[2] == kl[4] == 0.0 < min(kl[1], kl[3])


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_a_reset_reference_survives_a_restart(build_learners, train_batches, tmp_path, lora):
    settings = {"kl_coef": 0.1, "reference_reset_interval": 2, "lora": lora}
    running, resumed = build_learners(**settings), build_learners(**settings)
    for _ in range(3):
        update(running, train_batches())
    running.save_to_path(tmp_path)
    resumed.restore_from_path(tmp_path)
    expected, ours = (update(learners, train_batches())["kl/ref"] for learners in (running, resumed))
    assert ours == expected > 0


def test_with_lora_the_reference_is_the_policy_without_its_adapters(build_learners, train_batches, random_model):
    learner = local(build_learners(kl_coef=0.1, lora=LORA | {"init_lora_weights": False}))
    (batch,) = train_batches()
    tokens = pad_rows(batch.prompt_ids, batch.completion_ids, "cpu")
    with torch.no_grad():
        trained, _ = learner.policy(tokens)
        with learner.reference.in_place() as reference:
            found, _ = reference(tokens)
        assert torch.equal(learner.policy(tokens)[0], trained)
        expected, _ = load_policy(random_model)(tokens)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - trained).abs().max() > 0.1
    # And it costs the memory of adapters, not of a model.
    parameters = list(learner.policy.parameters())
    kept = sum(tensor.numel() for tensor in learner.reference.tensors().values())
    assert reference is learner.policy and kept == sum(p.numel() for p in parameters if p.requires_grad)


def test_the_adapters_come_back_when_scoring_the_reference_fails(build_learners):
    learner = local(build_learners(kl_coef=0.1, lora=LORA | {"init_lora_weights": False}))
    before = {name: p.clone() for name, p in learner.policy.named_parameters()}
    with pytest.raises(RuntimeError, match="out of memory"), learner.reference.in_place():
        raise RuntimeError("out of memory")
    assert all(torch.equal(before[name], p) for name, p in learner.policy.named_parameters())


@pytest.mark.slow
def test_two_learners_with_adapters_do_what_one_does(
    build_learners, train_batches, weights_of, largest_difference, tmp_path
):
    settings = {"lora": LORA, "kl_coef": 0.1, "reference_reset_interval": 2, "lr": 1e-2}
    one, two = build_learners(**settings), build_learners(num_learners=2, **settings)
    one.save_to_path(tmp_path)
    two.restore_from_path(tmp_path)
    initial = weights_of(one)
    assert largest_difference(weights_of(two), initial) == 0
    distances = []
    for _ in range(3):
        (a, b) = (update(learners, train_batches(num_learners=n)) for learners, n in ((one, 1), (two, 2)))
        assert a == {name: pytest.approx(value, rel=1e-3, abs=1e-5) for name, value in b.items()}
        distances.append(a["kl/ref"])
    assert distances[0] == distances[2] == 0 < distances[1]  # reset after the second update
    assert largest_difference(weights_of(one), weights_of(two)) < 1e-4
    assert largest_difference(weights_of(one), initial) > 1e-2

    # One goes on from the other's checkpoint, the moved reference included, and from its published weights.
    two.save_to_path(tmp_path / "two")
    one.restore_from_path(tmp_path / "two")
    (a, b) = (update(learners, train_batches(num_learners=n))["kl/ref"] for learners, n in ((one, 1), (two, 2)))
    assert a == pytest.approx(b, rel=1e-3) and a > 1e-3
    two.restore_from_path(tmp_path)
    two.set_state(one.get_state())
    assert largest_difference(weights_of(one), weights_of(two)) == 0
    assert one.weights().version == two.weights().version


# ---- weights in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_weights_that_a_learner_gave_can_be_given_to_another(build_learners, train_batches, weights_of, lora):
    trained, other = build_learners(lora=lora), build_learners(lora=lora)
    update(trained, train_batches())
    other.set_state(trained.get_state())
    assert other.weights().version == trained.weights().version == 1
    expected, found = weights_of(trained), weights_of(other)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    # Not only what is published: the other model computes with them.
    (batch,) = train_batches()
    a, b = (local(g).score(list(batch.prompt_ids), list(batch.completion_ids)) for g in (trained, other))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_weights_of_another_kind_are_refused(build_learners):
    whole, adapted = build_learners(), build_learners(lora=LORA)
    for giver, taker, kind in ((whole, adapted, "full"), (adapted, whole, "adapters")):
        with pytest.raises(ValueError, match=f"handle.kind='{kind}': expected .* with lora="):
            taker.set_state(giver.get_state())
    some = build_learners(lora={"r": 4, "target_modules": ["q_proj"]})
    with pytest.raises(ValueError, match=r"other target_modules: .*lora_A"):
        adapted.set_state(some.get_state())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_makes_two_epochs_of_steps(build_learners, train_batches, loss):
    metrics = update(build_learners(loss=loss, num_epochs=2, kl_coef=None), train_batches(minibatch_prompts=1))
    assert metrics["optim/steps"] == 6 and metrics["optim/skipped"] == 0
    assert np.isfinite(metrics["optim/grad_norm"]) and np.isfinite(metrics["weight/pos_mean"])


# ---- sampler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", ["truncated", "masked"])
@pytest.mark.parametrize("level", ["token", "geometric", "sequence"])
def test_a_sampler_correction_weighs_the_gradient(build_learners, train_batches, correction, level):
    # The synthetic sampler_logprobs are far from the learner's.
    plain = update(build_learners(), train_batches())
    corrected = update(build_learners(sampler_correction=correction, sampler_correction_level=level), train_batches())
    assert corrected["optim/grad_norm"] != pytest.approx(plain["optim/grad_norm"], rel=1e-2)
    assert 0 < plain["sampler/outside_cap_frac"] <= 1 and plain["sampler/ratio_mean"] != 1  # counted without it, too


def test_masking_everything_leaves_no_gradient(build_learners, train_batches):
    metrics = update(build_learners(sampler_correction="masked", sampler_ratio_cap=1 + 1e-9), train_batches())
    assert metrics["sampler/outside_cap_frac"] == 1 and metrics["optim/grad_norm"] == 0


def test_a_sampler_correction_weighs_the_policy_term_alone(
    build_learners, train_batches, weights_of, largest_difference
):
    # With all tokens masked what is left are the entropy bonus and the KL, to which a second epoch gives a gradient.
    nothing = {"sampler_correction": "masked", "sampler_ratio_cap": 1 + 1e-9}
    regularised = {"entropy_coef": 0.1, "kl_coef": 0.5, "num_epochs": 2, "lr": 1e-3}
    weights = []
    for settings, rewards in ((nothing, REWARDS), ({}, np.zeros_like(REWARDS))):  # without advantages: the same terms
        learners = build_learners(**settings, **regularised)
        metrics = update(learners, train_batches(rewards=rewards))
        assert metrics["optim/grad_norm"] > 0 and metrics["kl/ref"] > 0
        weights.append(weights_of(learners))
    assert largest_difference(*weights) == 0


def test_a_clamped_kl_stops_at_its_limit(build_learners, train_batches):
    free, clamped = (
        update(build_learners(kl_coef=0.5, num_epochs=2, lr=1e-2, kl_clamp=clamp), train_batches())
        for clamp in (None, 1e-6)
    )
    assert free["kl/ref"] > 1e-5 and 0 < clamped["kl/ref"] <= 1e-6


def test_the_ratio_to_the_samplers_policy(build_learners, train_batches, weights_of, largest_difference):
    # One optimizer step: the policy is still the one that the batch is scored with.
    results, weights = [], []
    for old_logprobs in ("learner", "sampler"):
        learners = build_learners(old_logprobs=old_logprobs, lr=1e-4)
        results.append(update(learners, train_batches()))
        weights.append(weights_of(learners))
    to_learner, to_sampler = results
    assert to_learner["ratio/mean"] == 1 and to_learner["kl/old"] == 0
    assert to_sampler["ratio/mean"] == pytest.approx(to_sampler["sampler/ratio_mean"], rel=1e-5)
    assert to_sampler["kl/sampler"] == to_learner["kl/sampler"]  # still the engine's distance to the learner
    assert to_sampler["clip/neg_frac"] > 0 and largest_difference(*weights) > 1e-5
