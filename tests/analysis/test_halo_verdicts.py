"""The table of verdicts, and that each clause can fail."""

from __future__ import annotations

import re

import halo_losses
import pytest
from family import loss_of

from analysis.halo.verdict import Verdict, verdict
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO

# Loss: whether it is a HALO ("log-ratio": with the reward as versions 2 to 4 define it; "ratio": only if the reward may
# be the ratio of probabilities), or else the clause that fails first; and its reference point.
EXPECTED = {
    # What the paper's theorem says of them (for PPO-Clip, see below).
    "dpo": ("log-ratio", "other"),
    "kto": ("log-ratio", "batch"),
    "slic": (1, "none"),
    "csft": (1, "none"),
    # No reference, so the loss depends on the policy even where it equals the reference.
    "sft": (1, "none"),
    "rrhf": (1, "none"),
    "cpo": (1, "none"),
    "orpo": (1, "none"),
    "simpo": (1, "none"),
    "kto_no_reference": (1, "none"),
    # Aims at a margin or a reward and takes back what is above it, so no sign makes it monotone.
    "cdpo": (3, "other"),
    "ipo": (3, "other"),
    "nca": (3, "reference"),
    # What raises the value of the chosen completion depends on the reward of the other one.
    "apo_down": (3, "reference"),
    # The KL penalty raises undesirable completions that PPO-Clip has clipped.
    "ppo": (3, "state"),
    # DPO's log sigma, on another margin or on a sum of two of them.
    "robust_dpo": ("log-ratio", "other"),
    "rdpo": ("log-ratio", "other"),
    "humanline_dpo": ("log-ratio", "other"),
    # KTO's value, or another that is concave for gains and convex for losses.
    "kto_no_reference_point": ("log-ratio", "reference"),
    "kto_risk_neutral": ("log-ratio", "batch"),
    "kto_kahneman_tversky": ("log-ratio", "batch"),
    "humanline_kto": ("log-ratio", "batch"),
    "apo_zero": ("log-ratio", "reference"),
    # -log sigma of minus the reward, the loss of undesirable completions, is softplus: convex in the log-ratio r, and
    # log(1 + q^beta) is concave in the ratio q.
    "kto_concave": ("ratio", "batch"),
    "bco": ("ratio", "batch"),
}


def summary(found: Verdict) -> tuple[str | int | None, str]:
    failed = found.failed
    return (failed.number if failed else found.space), found.point


@pytest.mark.parametrize("name", EXPECTED)
def test_the_table_of_verdicts(name):
    found = verdict(loss_of(name))
    assert summary(found) == EXPECTED[name]
    assert found.halo == (found.failed is None) == isinstance(EXPECTED[name][0], str)
    assert found.strict == (EXPECTED[name][0] == "log-ratio")


def test_ppo_clip_is_a_halo_in_the_ratio_and_the_kl_penalty_makes_it_none():
    """A min(q, 1 + eps) is concave in the ratio q and, where it is not clipped, convex in log q: from a slope of 1 per
    nat at q = 1 to c_high at the clip."""
    clip, penalised = verdict(loss_of("ppo", kl_weight=0)), verdict(loss_of("ppo"))
    assert summary(clip) == ("ratio", "state")
    assert clip.signs == {"desirable": 1, "undesirable": -1}
    assert (clip.halo, clip.strict) == (True, False)
    assert penalised.failed is not None
    assert penalised.failed.number == 3
    # clipped at c_low = 0.25, log 0.25 = -1.386, below which only the penalty is left
    assert "an undesirable completion from −4.00 to −1.39 lowers the loss" in penalised.failed.evidence


def test_the_range_of_beta_in_which_bco_is_a_halo():
    """log(1 + q^beta e^-delta) has its steepest point, in q, where q^beta = (beta - 1) e^delta: among the gains, those
    with q^beta > e^delta, if beta > 2."""
    assert verdict(loss_of("bco", beta=1.9)).halo
    failed = verdict(loss_of("bco", beta=3)).failed
    assert failed is not None
    assert failed.number == 4


@pytest.mark.parametrize(
    ("loss", "clauses"),
    [
        (halo_losses.Hinge(), []),
        (halo_losses.DPOWithLikelihood(), [1, 2]),
        (halo_losses.HalfOfTheReference(), [1, 2]),
        (halo_losses.WeighedByTheReference(), [2]),
        (halo_losses.Square(), [3]),
        (halo_losses.Product(), [3]),
        (halo_losses.SquareOfTheRatio(), [4]),
        (halo_losses.NotANumber(), [2, 3]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_each_clause_can_fail(loss, clauses):
    found = verdict(loss)
    assert [clause.number for clause in found.clauses if clause.asked and not clause.holds] == clauses
    assert found.halo == (not clauses)
    assert all(clause.evidence for clause in found.clauses if clause.number in clauses)


def test_concavity_is_asked_of_the_gains_over_the_other_completion():
    """-max(0, m)^2 for the chosen completion is convex where m > 0 and flat elsewhere; for the rejected one, with a =
    -1, it is flat where that one is ahead, so the definition, which asks nothing of losses, is met by this choice of
    the outcome. With a part -max(0, -m)^2 that takes it away, neither choice is left."""
    found = verdict(halo_losses.SquareOfTheMargin())
    assert (found.point, found.roles, found.signs) == ("other", ("rejected",), {"rejected": -1})
    both = verdict(halo_losses.CubeOfTheMargin())
    assert both.point == "other"
    assert both.failed is not None
    assert both.failed.number == 4
    assert both.failed.evidence.startswith("the slope of the chosen completion's value grows for gains")
    assert verdict(DPO()).roles == ("chosen",)


def test_the_ratio_is_accepted_but_told_apart():
    found = verdict(halo_losses.Ratio())
    assert (found.halo, found.strict, found.space) == (True, False, "ratio")


@pytest.mark.parametrize("loss", [halo_losses.FlippedDPO(), halo_losses.SwappedDPO()])
def test_a_flipped_loss_is_a_halo_whose_direction_says_so(loss):
    """The definition leaves the sign a free, so minus DPO is a HALO, with a = -1. The direction must be shown."""
    found = verdict(loss)
    assert found.halo
    assert found.signs == {found.roles[0]: 1 if found.roles[0] == "rejected" else -1}
    assert verdict(DPO()).signs == {"chosen": 1}


def test_flipped_kto_is_no_mistake_that_goes_unseen():
    assert verdict(halo_losses.FlippedKTO()).signs == {"desirable": -1, "undesirable": 1}
    assert verdict(KTO()).signs == {"desirable": 1, "undesirable": -1}


def numbers(text: str) -> list[float]:
    return [float(each.replace("−", "-")) for each in re.findall(r"[−+]?\d+\.\d+", text)]


def test_the_counter_example_to_constancy_can_be_checked():
    """SFT's loss is -log pi, whatever the reference."""
    failed = verdict(loss_of("sft")).failed
    assert failed is not None
    low, log_low, high, log_high = numbers(failed.evidence)
    assert (low, high) == (-log_low, -log_high)
    assert low < high


def test_the_counter_example_to_monotonicity_can_be_checked():
    """IPO on one token, beta 0.1: (10 x - 5)^2 with x beside a rejected completion at 0; least at 0.5."""
    failed = verdict(loss_of("ipo")).failed
    assert failed is not None
    low, least, before, at_least, again, high, at_least_again, after = numbers(failed.evidence)
    assert before == pytest.approx((10 * low - 5) ** 2, rel=0.01)
    assert after == pytest.approx((10 * high - 5) ** 2, rel=0.01)
    assert least == again == pytest.approx(0.5, abs=0.011)
    assert at_least == at_least_again < 0.02


def test_the_counter_example_to_concavity_can_be_checked():
    """q^2 = e^(2u): slope 2 e^(2u) per nat."""
    failed = verdict(halo_losses.SquareOfTheRatio()).failed
    assert failed is not None
    slope, at, later_slope, later = numbers(failed.evidence)
    assert slope == pytest.approx(2 * 2.718281828 ** (2 * at), rel=0.02)
    assert later_slope > slope
    assert later > at
