"""Conditional SFT: likelihood after a control token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from pydantic import ValidationError

from kto_bench.losses.csft import ConditionalSFT
from kto_bench.losses.sft import SFT

LOG_2 = math.log(2)


def check(cls: type[ConditionalSFT]) -> None:
    """Token probabilities (1/2, 1/4), (1/8), (1/2, 1/2, 1/16): losses 3, 3 and 6 log 2, weights 2, 1 and 3 tokens.

    Mean over the global batch: 12 log 2 / 6 = 2 log 2 = 1.38629436, whichever the labels. d loss / d log p = -1 for
    every token of either class. log_probs: desirable (first and last) -4.5 log 2, undesirable -3 log 2.
    """
    batch = completions([[-LOG_2, -2 * LOG_2], [-3 * LOG_2], [-LOG_2, -LOG_2, -4 * LOG_2]])
    loss = cls()
    output, weights = loss(batch, torch.tensor([True, False, True])), loss.weights(batch.lengths)
    assert_equals(output.losses, [3 * LOG_2, 3 * LOG_2, 6 * LOG_2])
    assert_equals(weights, [2, 1, 3])
    assert_equals(output.losses.sum() / weights.sum(), 1.3862943611)
    output.losses.sum().backward()
    assert_equals(batch.policy.grad, [[-1, -1, 0], [-1, 0, 0], [-1, -1, -1]])
    assert logged(output, "log_probs/desirable") == pytest.approx(-4.5 * LOG_2)
    assert logged(output, "log_probs/undesirable") == pytest.approx(-3 * LOG_2)
    assert loss.control_tokens == ("<|good|>", "<|bad|>")
    assert cls(undesirable_token="[-]").control_tokens == ("<|good|>", "[-]")


def test_values_derived_by_hand() -> None:
    check(ConditionalSFT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("losses=-log_probs", "losses=log_probs"),
        ("losses=-log_probs", "losses=torch.where(desirable, -log_probs, log_probs)"),
        ("losses=-log_probs", "losses=-log_probs / completions.lengths"),
        ("lengths.to(torch.float32)", "torch.ones_like(lengths)"),
        ("self.desirable_token, self.undesirable_token\n", "self.undesirable_token, self.desirable_token\n"),
        ("(log_probs.detach(), ~desirable)", "(log_probs.detach(), desirable)"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(ConditionalSFT, old, new, check, monkeypatch)


def test_it_is_sft_on_both_classes(make_batch: Any) -> None:
    loss, sft = ConditionalSFT(), SFT()
    batch = make_batch(loss)
    assert torch.equal(batch.output(loss).losses, sft(batch.columns[0]).losses)
    assert torch.equal(batch.weights(loss), batch.weights(sft))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"desirable_token": ""}, "desirable_token is ''.*must not be empty"),
        ({"undesirable_token": " "}, "undesirable_token is ' '"),
        ({"undesirable_token": "<|bad|> "}, "start or end with whitespace"),
        ({"desirable_token": "\n<|good|>"}, "start or end with whitespace"),
        ({"desirable_token": "<|bad|>"}, r"both '<\|bad\|>'.*choose two"),
    ],
)
def test_unusable_tokens_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConditionalSFT.model_validate(changes)
