"""A loss of one's own is tried on a small example before a run starts."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from aspo_rllib import LOSSES, TINY_MODEL, ASPOConfig, Loss
from aspo_rllib.losses.trial import check_token_weight, example


def reinforce(x):
    return x.ratio * 0 + 1


def per_completion(x):
    return x.response_mean(x.ratio)


def a_number(x):
    return 1.0


def raises(x):
    return x.ratios


def grows(x):
    return 1 / (x.ratio - 1)


def infinite_on_padding(x):
    return x.ratio / x.loss_mask.float()


@pytest.mark.parametrize("loss", [*LOSSES.values(), Loss(reinforce), Loss(infinite_on_padding)])
def test_a_good_loss_passes(loss):
    check_token_weight(loss)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (per_completion, "it returned shape (2, 1) for two completions of four tokens; expected one weight per token"),
        (a_number, "it returned 1.0 for two"),
        (raises, "on a small example it raised AttributeError: 'TokenInputs' object has no attribute 'ratios'"),
        (grows, "the weight of a token with ratio 1 and advantage 1 is inf; expected a finite number"),
    ],
)
def test_a_mistake_names_the_function(loss, message):
    where = f"loss={loss.__name__} ({Path(__file__)}:{loss.__code__.co_firstlineno}): "
    config = ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=TINY_MODEL)
    for given in (loss, Loss(loss, kl_coef=0.0)):
        with pytest.raises(ValueError, match=re.escape(where + message)):
            config.training(loss=given).validate()


def test_the_example_has_the_configs_bounds():
    inputs = example(replace(LOSSES["grpo"], clip_low=0.1, weight_cap=None))
    assert (inputs.clip_low, inputs.clip_high, inputs.weight_cap) == (0.1, 0.2, math.inf)
    assert inputs.loss_mask.sum() == 7 and inputs.ratio[0, 3].item() == pytest.approx(4.0)
