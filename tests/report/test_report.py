"""The report: its statistics by hand, its words in every case, and a page from trial folders as Tune writes them."""

import base64
import csv
import json
import math
import re
import runpy
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from aspo_rllib.report import confounds, statistics, write_report
from aspo_rllib.report.curves import mean_curve
from aspo_rllib.report.methods import common_settings, group_methods, short
from aspo_rllib.report.plan import read_plan
from aspo_rllib.report.planned import planned_results
from aspo_rllib.report.results import read_trials
from aspo_rllib.report.verdict import compare, decimals_for, headline, sentence, too_few

METRIC = "evaluation/accuracy"


def result(iteration, evaluation, evaluated_at, **more):
    """A line of result.json, as the algorithm and Tune make it."""
    return {
        "training_iteration": iteration,
        "timestamp": 1_700_000_000 + 60 * iteration,
        "time_total_s": 60.0 * iteration,
        "done": False,
        "config": {"loss": "not read from here"},
        "reward": {"accuracy": 0.01 * iteration},
        "entropy": {"mean": 1 / iteration},
        "evaluation": {"accuracy": evaluation, "iteration": evaluated_at, "avg_at_4_se": 0.02},
        **more,
    }


@pytest.fixture
def write_trial(tmp_path):
    """`write_trial("aspo", seed=0, accuracies=[0.5, 0.6])`: a trial folder, evaluated at iterations 2, 4, ..."""
    count = 0

    def write(loss, seed, accuracies, error=None, done=True, params=None, **more):
        nonlocal count
        count += 1
        folder = tmp_path / "experiment" / f"ASPO_{count:05d}_loss={re.sub(r'[^a-z]', '', loss)}"
        folder.mkdir(parents=True)
        config = {
            "loss": loss,
            "seed": seed,
            "lr": 1e-4,
            "env": "aspo/Arithmetic-v0",
            "env_config": {"digits": 3},
            "evaluation_fn": f"<function evaluate at 0x7fd9{count:08x}>",
            "__stdout_file__": f"log{count}",
        }
        (folder / "params.json").write_text(json.dumps(config | (params or {})))
        rows = []
        for k, accuracy in enumerate(accuracies, start=1):
            # Odd iterations repeat the evaluation before them; 0.1 is the one before training.
            rows.append(result(2 * k - 1, accuracies[k - 2] if k > 1 else 0.1, 2 * k - 2, **more))
            rows.append(result(2 * k, accuracy, 2 * k, **more))
        if rows:
            rows[0]["evaluation_at_start"] = {"accuracy": 0.1}
            rows[-1]["done"] = done and error is None
        (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if error:
            (folder / "error.txt").write_text(error)
            (folder / "error.pkl").write_bytes(b"never read")
        return folder

    return write


@pytest.fixture
def experiment(tmp_path):
    return tmp_path / "experiment"


def verdicts(experiment, **options):
    comparisons = compare(group_methods(read_trials(experiment), **options), METRIC, last=1)
    tested = sum(c.p is not None for c in comparisons)
    return [sentence(c, METRIC, num_comparisons=tested, decimals=3) for c in comparisons]


class Words(HTMLParser):
    """The text of a page, its tags, and what its attributes refer to."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.links, self.alts = "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.alts += [value for name, value in attrs if name == "alt"]

    def handle_data(self, data):
        self.text += data + "\n"


# ---- statistics ----------------------------------------------------------------------------------------------


def test_the_t_interval_by_hand():
    # Mean 2, sd 1, standard error 1/sqrt(3); t(0.975, 2) = 4.3027.
    assert statistics.standard_error([1, 2, 3]) == pytest.approx(1 / math.sqrt(3))
    half_width = 4.3027 / math.sqrt(3)
    assert statistics.t_interval([1, 2, 3]) == pytest.approx((2 - half_width, 2 + half_width), abs=1e-3)
    assert statistics.t_interval([1]) is statistics.standard_error([1]) is None


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], None),
        ([0.3], None),
        ([0.1, 0.2], 2 / 4),
        ([1, 2, 3, 4, 5], 2 / 32),  # all of one sign: it and its mirror image
        ([-1, -2, -3, -4, -5], 2 / 32),
        ([1, 2, 3, 4, -1], 6 / 32),  # |sum| >= 9: all +, all + but one of the two 1s, and their mirror images
        ([0.1, 0.2, 0.3, 0.4, -0.1], 6 / 32),  # the same, where sums are not exact
        ([0, 0, 0], 1),
        ([1] * 20, 2 / 2**20),
    ],
)
def test_the_sign_flip_p_counts_patterns(differences, p):
    assert statistics.sign_flip_p(differences) == p


def test_the_sign_flip_p_of_many_pairs_is_near_the_t_test_s_and_never_zero():
    differences = np.random.default_rng(3).normal(0.4, 1, size=40)
    assert statistics.sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.005)
    assert 0 < statistics.sign_flip_p([1.0] * 40) < 1e-4


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 = 0.03, 0.06, 0.04, and never below the one before.
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("num_comparisons", "pairs"), [(1, 6), (2, 7), (4, 8), (11, 9)])
def test_fewest_pairs_can_reach_the_level_and_one_less_cannot(num_comparisons, pairs):
    assert statistics.fewest_pairs(num_comparisons, 0.05) == pairs
    assert num_comparisons * statistics.sign_flip_p([1] * pairs) <= 0.05
    assert num_comparisons * statistics.sign_flip_p([1] * (pairs - 1)) > 0.05


def test_the_bootstrap_interval_of_two_values_is_between_them_and_of_equal_ones_a_point():
    assert statistics.bootstrap_interval([0.0, 0.1]) == (0.0, 0.1)
    assert statistics.bootstrap_interval([0.2, 0.2, 0.2]) == (0.2, 0.2)
    assert statistics.bootstrap_interval([0.2]) is None
    values = [0.01, 0.05, 0.02, 0.04, 0.03]
    low, high = statistics.bootstrap_interval(values)
    assert 0.01 < low < 0.03 < high < 0.05
    assert statistics.bootstrap_interval(values) == (low, high)  # seeded


@pytest.mark.parametrize("n", sorted(statistics.BOOTSTRAP_COVERAGE))
def test_the_bootstrap_covers_as_often_as_the_report_says(n):
    draws = np.random.default_rng(0).normal(size=(2000, n))
    low, high = stats.bootstrap(
        (draws,), np.mean, axis=-1, n_resamples=499, method="BCa", rng=1, batch=100
    ).confidence_interval
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(statistics.BOOTSTRAP_COVERAGE[n], abs=0.03)


@pytest.mark.parametrize(("values", "decimals"), [([0.81, 0.4], 3), ([1.0], 3), ([12.5], 1), ([400], 0), ([0.004], 5)])
def test_decimals_show_three_digits(values, decimals):
    assert decimals_for(values) == decimals


# ---- reading -------------------------------------------------------------------------------------------------


def test_evaluations_count_where_they_were_made(write_trial, experiment):
    write_trial("aspo", 0, [0.2, 0.5, 0.8, 0.9])
    (trial,) = read_trials(experiment)
    assert trial.series(METRIC) == {0: 0.1, 2: 0.2, 4: 0.5, 6: 0.8, 8: 0.9}
    assert trial.series("reward/accuracy")[7] == pytest.approx(0.07)
    assert trial.final(METRIC, last=3) == pytest.approx((0.5 + 0.8 + 0.9) / 3)
    assert trial.final(METRIC, last=9) == pytest.approx((0.2 + 0.5 + 0.8 + 0.9) / 4)  # not the one before training
    assert (trial.seed, trial.iterations, trial.status) == (0, 8, "finished")
    assert trial.config["env_config/digits"] == 3 and "__stdout_file__" not in trial.config


def test_nan_half_lines_and_repeated_iterations(write_trial, experiment):
    folder = write_trial("aspo", 0, [0.5, 0.6])
    with (folder / "result.json").open("a") as file:
        for accuracy in (math.nan, math.inf, 0.7):  # after a restore, the later result of an iteration counts
            file.write(json.dumps(result(3, 0.5, 2, kl={"old": accuracy})) + "\n")
        file.write(json.dumps(result(5, math.nan, 4, kl={"old": math.inf})) + "\n")
        file.write('{"training_iteration": 6, "kl": {"o')
    (trial,) = read_trials(experiment)
    assert trial.iterations == 5
    assert trial.series("kl/old") == {3: 0.7}
    assert trial.series(METRIC) == {0: 0.1, 2: 0.5, 4: 0.6}


def test_a_trial_that_ends_in_nan_has_no_final_value(write_trial, experiment):
    write_trial("aspo", 0, [0.5, 0.6, math.nan])
    (trial,) = read_trials(experiment)
    assert trial.series(METRIC) == {0: 0.1, 2: 0.5, 4: 0.6}
    assert trial.final(METRIC, last=3) is None


RAY_ERROR = """Failure # 1 (occurred at 2026-01-01_00-00-00)
\x1b[36mray::ASPO.train()\x1b[39m (pid=1)
  File "aspo.py", line 1, in step
    raise ValueError("lost")
aspo_rllib.weights.sync.SyncDriftError: drift 0.2 above 0.01
An unexpected internal error occurred while the worker was executing a task.
"""


@pytest.mark.parametrize(
    ("accuracies", "error", "done", "status"),
    [
        ([0.5], None, True, "finished"),
        ([0.5], None, False, "stopped or still running at iteration 2"),
        (
            [0.5],
            RAY_ERROR,
            True,
            "crashed at iteration 2: aspo_rllib.weights.sync.SyncDriftError: drift 0.2 above 0.01",
        ),
        ([], "Killed\n\n", True, "crashed at iteration 0: Killed"),
        ([], None, True, "no results"),
    ],
)
def test_the_status_of_a_trial(write_trial, experiment, accuracies, error, done, status):
    write_trial("aspo", 0, accuracies, error, done)
    write_trial("aspo", 1, [0.5])
    trial = read_trials(experiment)[0]
    assert trial.status == status
    assert (trial.final(METRIC, 3) is None) == (status != "finished")


def test_a_trial_that_recovered_from_an_error_is_finished(write_trial, experiment):
    folder = write_trial("aspo", 0, [0.5])
    (folder / "error.txt").write_text("OSError: disk full")
    assert read_trials(experiment)[0].status == "finished, after an error: OSError: disk full"


def test_folders_that_hold_nothing(tmp_path, write_trial, experiment):
    with pytest.raises(ValueError, match=r"results_dir='.*nowhere': no such folder"):
        write_report(tmp_path / "nowhere")
    write_trial("aspo", 0, [])
    with pytest.raises(ValueError, match=r"results_dir='.*experiment': 1 trial folders, none with a result; expected"):
        write_report(experiment)


def test_what_cannot_be_reported_names_the_argument(write_trial, experiment):
    folder = write_trial("aspo", 0, [0.5])
    for options, message in (
        ({"metric": "evaluation/acuracy"}, r"metric='evaluation/acuracy': .*evaluation/accuracy"),
        ({"baseline": "grpo"}, r"baseline='grpo': expected one of \['aspo'\]"),
        ({"last": 0}, "last=0: expected an int >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(experiment, **options)
    (folder / "result.json").write_text("not json\n")
    with pytest.raises(ValueError, match=r"result.json, line 1: expected a JSON object, got 'not json"):
        write_report(experiment)


# ---- methods -------------------------------------------------------------------------------------------------


def test_methods_are_trials_that_differ_in_their_seeds_alone(write_trial, experiment):
    for seed in (0, 1):
        write_trial("grpo", seed, [0.5])
        write_trial("grpo", seed, [0.5], params={"clip_high": 0.4})
        write_trial("aspo", seed, [0.5])
    trials = read_trials(experiment)
    methods = group_methods(trials)
    assert [m.label for m in methods] == ["grpo", "aspo", "grpo clip_high=0.4"]
    assert [[t.seed for t in m.trials] for m in methods] == [[0, 1]] * 3
    assert methods[2].settings == {"loss": "grpo", "clip_high": 0.4}
    assert [m.label for m in group_methods(trials, baseline="aspo")] == ["aspo", "grpo", "grpo clip_high=0.4"]
    common = common_settings(trials)
    assert common["evaluation_fn"] == "<function evaluate>"  # though its address differed
    assert common["env_config/digits"] == 3 and not {"loss", "seed", "clip_high"} & common.keys()


def test_labels_are_unique_and_without_a_loss_name_what_differs(write_trial, experiment):
    long = "x" * 40
    for end in "ab":
        write_trial("aspo", 0, [0.5], params={"lr": 1e-4, "prompt": end + long})
    write_trial("aspo", 0, [0.5], params={"lr": 3e-4, "prompt": None})
    labels = [m.label for m in group_methods(read_trials(experiment))]
    assert labels == ["aspo lr=0.0003", "aspo …", "aspo … (2)"]


def test_a_label_that_grows_too_long_leaves_its_settings_to_the_table(write_trial, experiment):
    for value in (1, 2):
        write_trial("aspo", 0, [0.5], params={f"a_setting_with_a_name_{k}": value for k in range(3)})
    methods = group_methods(read_trials(experiment))
    assert [m.label for m in methods] == ["aspo …", "aspo … (2)"]
    assert [m.settings["a_setting_with_a_name_2"] for m in methods] == [1, 2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "0.0001"),
        (None, "None"),
        (True, "True"),
        ([0.9, 0.999], "[0.9, 0.999]"),
        ("<function make.<locals>.reinforce>", "reinforce"),
        ("<class 'aspo_rllib.rollout.env_runner.TextEnvRunner'>", "TextEnvRunner"),
        ("<b>", "<b>"),
    ],
)
def test_settings_for_people(value, text):
    assert short(value) == text


def test_the_mean_curve_and_its_band_by_hand(write_trial, experiment):
    for seed, accuracies in enumerate([[0.1, 0.4], [0.2, 0.6], [0.3]]):
        write_trial("aspo", seed, accuracies)
    curve = mean_curve(group_methods(read_trials(experiment))[0], METRIC)
    assert curve.iterations.tolist() == [0, 2, 4]
    assert curve.mean == pytest.approx([0.1, 0.2, 0.5])
    # At 2: mean 0.2, sd 0.1, t(0.975, 2) = 4.3027. At 4 two trials are left: no band.
    half_width = 4.3027 * 0.1 / math.sqrt(3)
    assert curve.low[1] == pytest.approx(0.2 - half_width, abs=1e-4)
    assert curve.high[1] == pytest.approx(0.2 + half_width, abs=1e-4)
    assert np.isnan(curve.low[2]) and np.isnan(curve.high[2])


# ---- verdicts ------------------------------------------------------------------------------------------------


def test_six_seeds_of_one_sign_are_better(write_trial, experiment):
    for seed in range(6):
        write_trial("grpo", seed, [0.5 + 0.01 * seed])
        write_trial("aspo", seed, [0.53 + 0.012 * seed])
    (verdict,) = verdicts(experiment)
    assert re.fullmatch(
        r"aspo is better than grpo by 0\.035 \[0\.03\d, 0\.0[34]\d\] \(6 paired seeds, sign-flip p = 0\.0312\)\.",
        verdict,
    )
    (verdict,) = verdicts(experiment, baseline="aspo")
    assert re.match(r"grpo is worse than aspo by 0\.035 \[0\.03\d, 0\.0[34]\d\] \(6 paired", verdict)
    assert headline(compare(group_methods(read_trials(experiment)), METRIC, 1), METRIC) == (
        "1 method compared with grpo: 1 better."
    )


def test_five_seeds_of_one_sign_are_a_hint(write_trial, experiment):
    for seed in range(5):
        write_trial("grpo", seed, [0.5])
        write_trial("aspo", seed, [0.7 + 0.01 * seed])
    (verdict,) = verdicts(experiment)
    assert verdict.startswith("aspo was better than grpo on all 5 seeds, by 0.220 [0.2")
    assert verdict.endswith("a hint, not yet shown (sign-flip p = 0.0625).")
    remark = too_few(compare(group_methods(read_trials(experiment)), METRIC, last=1))
    assert remark.startswith("With one comparison, fewer than 6 paired seeds cannot show a difference, however large")


def test_seeds_of_both_signs_show_no_difference(write_trial, experiment):
    for seed, difference in enumerate([0.02, -0.01, 0.01, 0.0, -0.02, 0.01, -0.03]):
        write_trial("grpo", seed, [0.5])
        write_trial("aspo", seed, [0.5 + difference])
    (verdict,) = verdicts(experiment)
    assert re.match(r"No difference shown between aspo and grpo: -0\.003 \[-0\.0\d+, 0\.0\d+\] \(7 paired", verdict)
    assert too_few(compare(group_methods(read_trials(experiment)), METRIC, last=1)) is None


def test_equal_results_are_no_hint(write_trial, experiment):
    for seed in range(5):
        write_trial("grpo", seed, [0.5])
        write_trial("aspo", seed, [0.5])
    assert verdicts(experiment)[0].startswith("No difference shown between aspo and grpo: +0.000 [0.000, 0.000] (5")


def test_one_seed_says_nothing(write_trial, experiment):
    write_trial("grpo", 0, [0.5])
    write_trial("aspo", 0, [0.9])
    assert verdicts(experiment) == [
        "aspo against grpo: one seed: nothing can be said about differences (on this seed +0.400)."
    ]
    assert headline(compare(group_methods(read_trials(experiment)), METRIC, 1), METRIC) == (
        "One seed: nothing can be said about differences."
    )


def test_only_equal_seeds_are_paired_and_repeated_ones_averaged(write_trial, experiment):
    for seed, accuracy in ((0, 0.4), (0, 0.6), (1, 0.5), (2, 0.9)):
        write_trial("grpo", seed, [accuracy])
    write_trial("aspo", 0, [0.7])
    write_trial("aspo", 1, [0.6])
    write_trial("aspo", 2, [0.0], error="OSError: gone")
    write_trial("dapo", 7, [0.6])
    aspo, dapo = compare(group_methods(read_trials(experiment)), METRIC, last=1)
    assert aspo.differences == pytest.approx({0: 0.2, 1: 0.1})
    assert dapo.differences == {} and (dapo.interval, dapo.p, dapo.p_holm) == (None, None, None)
    assert "dapo and grpo share no finished seed: nothing can be said" in verdicts(experiment)[1]


def test_several_comparisons_are_corrected(write_trial, experiment):
    for seed in range(6):
        for loss, accuracy in (("grpo", 0.5), ("aspo", 0.6), ("dapo", 0.4)):
            write_trial(loss, seed, [accuracy + 0.001 * seed * len(loss)])
    comparisons = compare(group_methods(read_trials(experiment)), METRIC, last=1)
    # Alone 2/64 would do; twice that is above 0.05.
    assert [(c.p, c.p_holm) for c in comparisons] == [(2 / 64, 4 / 64)] * 2
    aspo, dapo = verdicts(experiment)
    assert "was better than grpo on all 6 seeds" in aspo and "was worse than grpo on all 6 seeds" in dapo
    assert "0.0625 corrected for 2 comparisons)" in aspo
    assert too_few(comparisons).startswith("With 2 comparisons, fewer than 7 paired seeds")
    assert headline(comparisons, METRIC) == "2 methods compared with grpo: 2 with a hint of a difference."


# ---- what was planned ----------------------------------------------------------------------------------------


@pytest.fixture
def planned(experiment):
    """`planned("...")`: the results of a plan.toml with this text, by hand from the final values."""

    def make(text):
        path = experiment / "plan.toml"
        path.write_text(text)
        plan = read_plan(path)
        return planned_results(plan, group_methods(read_trials(experiment), named=plan.methods), last=1)

    return make


COMPARISON = '[[comparison]]\nmethod = "aspo"\nbaseline = "grpo"\n'


def test_planned_comparisons_are_corrected_together(write_trial, experiment, planned):
    for seed in range(7):
        write_trial("grpo", seed, [0.5], entropy={"mean": 0.2})
        write_trial("aspo", seed, [0.6 + 0.001 * seed], entropy={"mean": 0.1})
    accuracy, entropy = planned(COMPARISON + COMPARISON + 'metric = "entropy/mean"\nexpect = "higher"\n')
    # Seven differences of one sign: 2 / 2^7 each, and twice that after the correction for two.
    assert (accuracy.p, accuracy.p_holm, entropy.p_holm) == (2 / 128, 4 / 128, 4 / 128)
    assert accuracy.verdict == "supported" and entropy.verdict == "contradicted"


def test_a_difference_that_is_too_small_to_matter_is_equivalence(write_trial, planned):
    for seed, difference in enumerate([0.001, -0.002, 0.001, 0.0, 0.002, -0.001]):
        write_trial("grpo", seed, [0.5])
        write_trial("aspo", seed, [0.5 + difference])
    within, beyond, equal = planned(
        COMPARISON + "equivalence = 0.02\n" + COMPARISON + "equivalence = 0.0005\n" + COMPARISON
        + 'expect = "equal"\nequivalence = 0.02\n'
    )  # fmt: skip
    # Mean 1/6000, sd 0.00147, n 6: half of the 90 % interval is 2.015 x 0.00147 / sqrt(6) = 0.00121.
    assert within.interval == pytest.approx((0.000167 - 0.00121, 0.000167 + 0.00121), abs=1e-5)
    assert (within.verdict, beyond.verdict) == ("equivalent within 0.02", "undecided")
    assert equal.verdict == "supported: equivalent within 0.02"


def test_the_area_is_the_mean_over_training(write_trial, experiment, planned):
    for seed in range(2):
        write_trial("grpo", seed, [0.1, 0.1])
        write_trial("aspo", seed, [0.5, 0.1])
    # 0.1 at 0, 0.5 at 2, 0.1 at 4: two trapezoids of 0.6 over 4 iterations.
    assert read_trials(experiment)[1].area(METRIC) == pytest.approx(0.3)
    (result,) = planned(COMPARISON + 'value = "area"\n')
    assert result.differences == pytest.approx({0: 0.2, 1: 0.2})
    assert result.verdict == "undecided"  # two pairs cannot show anything


def test_a_plan_names_methods_by_their_settings(write_trial, experiment, planned):
    for seed in range(2):
        write_trial("grpo", seed, [0.5])
        write_trial("grpo", seed, [0.6], params={"clip_high": 0.4})
    (result,) = planned(
        'methods = { grpo = { loss = "grpo" }, "grpo+clips" = { loss = "grpo", clip_high = 0.4 } }\n'
        '[[comparison]]\nmethod = "grpo+clips"\nbaseline = "grpo"\n'
    )
    assert result.differences == pytest.approx({0: 0.1, 1: 0.1})
    with pytest.raises(ValueError, match="methods\\['both'\\] fits 2 methods: add settings"):
        planned('methods = { both = { loss = "grpo" } }\n' + COMPARISON)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one"),
        ("[[comparison]]\nmethod = 3\n", "comparison 1: method=3: expected the label"),
        (COMPARISON + "seeds = 5\n", "comparison 1: unknown field 'seeds'"),
        (COMPARISON + 'value = "best"\n', "comparison 1: value='best': expected one of"),
        (COMPARISON + "equivalence = 0\n", "equivalence=0: expected a number > 0"),
        (COMPARISON + 'expect = "equal"\n', "expect='equal' needs equivalence"),
        ("comparison = [\n", "expected a plan in TOML"),
        ("[arms]\n" + COMPARISON, "unknown table 'arms'"),
    ],
)
def test_a_bad_plan_is_refused_with_its_field(tmp_path, text, message):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_plan(tmp_path / "plan.toml")


def test_a_plan_of_unknown_methods_is_refused(write_trial, planned):
    write_trial("aspo", 0, [0.5])
    with pytest.raises(ValueError, match=r"the plan compares 'grpo': expected one of the methods \['aspo'\]"):
        planned(COMPARISON)


def test_the_page_has_the_plan_first_and_calls_the_rest_explored(write_trial, experiment):
    for seed in range(2):
        for loss in ("grpo", "aspo", "dapo"):
            write_trial(loss, seed, [0.5 + 0.1 * (loss == "aspo")])
    (experiment / "plan.toml").write_text(COMPARISON)
    path = write_report(experiment, last=1)
    words = " ".join(Words(path.read_text(encoding="utf-8")).text.split())
    assert words.index("Planned comparisons") < words.index("Explored comparisons")
    assert "the final evaluation/accuracy of aspo is higher than that of grpo 2 +0.100" in words
    assert "These comparisons were not planned" in words
    with (path.parent / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"], row["final"], row["area"]) for row in rows[2:4]] == [
        ("aspo", "0", "0.6", "0.35"),
        ("aspo", "1", "0.6", "0.35"),
    ]


def test_methods_that_differ_in_more_than_their_loss_are_confounded(write_trial, experiment):
    write_trial("grpo", 0, [0.5])
    write_trial("aspo", 0, [0.5])
    write_trial("dapo", 0, [0.5])
    write_trial("grpo", 0, [0.5], params={"clip_high": 0.4, "seq": 5})
    methods = {m.label: m for m in group_methods(read_trials(experiment))}
    assert confounds.words(methods["aspo"], methods["grpo"]) == ""
    assert confounds.words(methods["dapo"], methods["grpo"]) == (
        "aggregation (token, not sequence), clip_high (0.28, not 0.2), kl_coef (0, not 0.001), weight_cap (10, not 3)"
    )
    assert confounds.words(methods["grpo clip_high=0.4 seq=5"], methods["grpo"]) == (
        "clip_high (0.4, not 0.2), seq (5, not None)"
    )
    # A loss without bounds has none that could differ.
    write_trial("sapo", 0, [0.5])
    methods = {m.label: m for m in group_methods(read_trials(experiment))}
    assert confounds.words(methods["sapo"], methods["grpo"]) == "kl_coef (0, not 0.001)"
    words = " ".join(Words(write_report(experiment).read_text(encoding="utf-8")).text.split())
    assert "Confounded: these methods differ from grpo in more than what is compared" in words
    assert "sapo kl_coef (0, not 0.001)" in words
    assert words.count("One seed: nothing can be said about differences.") == 1


# ---- the page ------------------------------------------------------------------------------------------------


def by_probability(weights):
    return {sign: {str(k): weight for k, weight in enumerate(weights)} for sign in ("pos", "neg")}


def test_the_page_of_an_experiment(write_trial, experiment, tmp_path):
    for seed in range(3):
        for loss, gain in (("grpo", 0.0), ("aspo", 0.1)):
            weights = by_probability([1 + gain + 0.1 * k for k in range(10)])
            write_trial(
                loss, seed, [0.4, 0.5, 0.6 + gain + 0.01 * seed], weight_by_prob=weights, clip={"pos_frac": 0.1}
            )
    write_trial("aspo", 3, [0.2], error=RAY_ERROR)
    path = write_report(experiment, tmp_path / "out", last=1)
    page = path.read_text(encoding="utf-8")
    words = Words(page)
    headings = ("What was run", "Verdict", "Final results", "Learning curves", "Token weights and seeds")
    headings += ("Hyper-parameters", "Trials", "How the numbers were made")
    positions = [words.text.index(f"{heading}\n") for heading in headings]
    assert positions == sorted(positions)

    # Means 0.61 and 0.71, sd 0.01, so a standard error of 0.01 / sqrt(3) = 0.006; every difference is 0.1.
    flat = " ".join(words.text.split())
    assert "grpo 0.610 0.006 3 baseline" in flat
    assert "aspo 0.710 0.006 3 +0.100 [0.100, 0.100] 3 0.25 0.25" in flat
    assert "No difference shown between aspo and grpo: +0.100" in flat
    assert "1 of 7 trials did not finish" in flat
    assert "crashed at iteration 2: aspo_rllib.weights.sync.SyncDriftError: drift 0.2 above 0.01" in flat
    assert "aspo/Arithmetic-v0" in flat and "0, 1, 2, 3" in flat and "2023-11-14 22:13 to 2023-11-14 22:19 UTC" in flat
    assert "error of a single evaluation over its prompts is about 0.02" in flat
    assert "No figure of entropy/pos_mean, entropy/neg_mean, clip/neg_frac, kl/old, ratio/mean, length/mean:" in flat

    names = {"learning_curves", "reward_accuracy", "entropy_mean", "clip_pos_frac", "token_weights", "seeds"}
    assert {file.stem for file in path.parent.glob("*.png")} == names
    images = [base64.b64decode(link.removeprefix("data:image/png;base64,"), validate=True) for link in words.links]
    assert {file.read_bytes() for file in path.parent.glob("*.png")} == set(images)
    assert len(words.alts) == 6 and all(words.alts)
    assert any("grpo 1 for the least likely tenth and 1.9 for the likeliest" in alt for alt in words.alts)
    assert not re.search(r"https?://", page)


def test_labels_cannot_become_markup(write_trial, experiment):
    evil = "<script>alert(1)</script> $x_ & \"'"
    write_trial(evil, 0, [0.5], params={"env": "<img src=x>"})
    write_trial("_grpo", 0, [0.5], error="ValueError: <script>2</script>")
    page = write_report(experiment).read_text(encoding="utf-8")
    words = Words(page)
    assert "script" not in words.tags and words.tags.count("img") == len(words.alts)
    assert evil in words.text and "<img src=x>" in words.text and "ValueError: <script>2</script>" in words.text


def test_one_method_with_one_seed(write_trial, experiment):
    write_trial("aspo", 0, [0.5, 0.7])
    words = Words(write_report(experiment).read_text(encoding="utf-8")).text
    assert "One method: there is nothing to compare." in words
    assert "There is one seed per method: the curves have no bands." in words
    assert "aspo\n0.600\nn/a\n1\n" in words  # mean of 0.5 and 0.7, and no error


def test_no_finished_trial_still_has_curves(write_trial, experiment):
    for loss in ("aspo", "grpo"):
        write_trial(loss, 0, [0.5, 0.7], done=False)
    path = write_report(experiment)
    words = Words(path.read_text(encoding="utf-8")).text
    assert "No paired seeds: nothing can be said about differences." in words
    assert (path.parent / "learning_curves.png").exists() and not (path.parent / "seeds.png").exists()


def test_twelve_methods_get_panels_and_trials_of_different_length_a_warning(write_trial, experiment):
    for k in range(12):
        for seed in range(2):
            write_trial("grpo", seed, [0.5] * (1 + k % 2), params={"lr": (k + 1) * 1e-5})
    path = write_report(experiment)
    words = Words(path.read_text(encoding="utf-8")).text
    assert "Finished trials ended at different iterations, 2 to 4" in words
    assert "11 methods compared with grpo lr=0.0001: 11 without a difference shown." in words
    assert (path.parent / "learning_panels.png").exists()


def test_the_command_prints_the_page_s_path(write_trial, experiment, tmp_path, monkeypatch, capsys):
    write_trial("aspo", 0, [0.5])
    out = tmp_path / "out"
    command = ["report", str(experiment), "--metric", "reward/accuracy", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_module("aspo_rllib.report", run_name="__main__")
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert (out / "learning_curves.png").exists()
    assert not (out / "reward_accuracy.png").exists()  # it is the learning curve

    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"python -m aspo_rllib.report: results_dir='.*nowhere': no such folder"):
        runpy.run_module("aspo_rllib.report", run_name="__main__")
