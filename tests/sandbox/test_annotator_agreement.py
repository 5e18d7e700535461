import pytest
from omegaconf import OmegaConf
from scipy.stats import mannwhitneyu

from kto_bench.component import ConfigError
from kto_bench.sandbox import agreement as module
from kto_bench.sandbox.agreement import CONF, agreement, main, preset, presets, temperature_at, with_temperature
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.perception import Seen

EQUALLY_INFORMATIVE = [
    "contradicting_crowds",
    "length_biased",
    "loss_neutral_noisy",
    "median_human",
    "rational",
    "sycophantic",
]


def test_the_presets_that_are_compared_say_equally_much():
    """Each within a point of 0.75 (docs/annotators.md)."""
    assert [name for name in presets() if name != "default"] == EQUALLY_INFORMATIVE
    assert [agreement(preset(name)).choices for name in EQUALLY_INFORMATIVE] == pytest.approx([0.75] * 6, abs=0.01)


def test_the_measures_are_what_they_say():
    exact = agreement(SimulatedAnnotator(noise=0, temperature=1e-6, status_quo=0.3123))
    assert exact.choices == exact.thumbs == 1
    found = agreement(SimulatedAnnotator())
    shown, _ = module._measured()
    thumbs = [thumb for own in SimulatedAnnotator().approve(shown, module._luck("thumbs")) for thumb in own]
    utility = Seen.shown(shown).utility.round(9)
    ours = [[value for value, thumb in zip(utility, thumbs, strict=True) if thumb is side] for side in (True, False)]
    assert found.thumbs == pytest.approx(mannwhitneyu(*ours).statistic / (len(ours[0]) * len(ours[1])))
    assert found.thumbs_up == len(ours[0]) / len(thumbs)


def test_the_temperature_for_an_agreement():
    annotator = SimulatedAnnotator(length_bias=0.5)
    calibrated = with_temperature(annotator, temperature_at(annotator, 0.8))
    assert agreement(calibrated).choices == pytest.approx(0.8, abs=1e-3)


def test_the_temperature_for_an_agreement_of_thumbs():
    annotator = SimulatedAnnotator(status_quo=0.9)
    calibrated = with_temperature(annotator, temperature_at(annotator, 0.8, "thumbs"))
    assert agreement(calibrated).thumbs == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("case", sorted((CONF / "case").glob("loss_aversion/*")), ids=lambda path: path.stem)
def test_thumbs_by_loss_aversion_say_equally_much(case):
    fields = OmegaConf.load(case).feedback.annotator
    found = agreement(preset("median_human", [f"{name}={value}" for name, value in fields.items()]))
    assert found.thumbs == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize("case", sorted((CONF / "case").glob("reference_point/*")), ids=lambda path: path.stem)
def test_thumbs_by_reference_point_say_equally_much(case):
    fields = OmegaConf.load(case).feedback.annotator
    found = agreement(preset("default", [f"{name}={value}" for name, value in fields.items()]))
    assert found.thumbs == pytest.approx(0.75, abs=0.005)


def test_an_agreement_that_biases_do_not_allow():
    with pytest.raises(ConfigError, match=r"choices .* at most 0\.\d+ .* weaken its biases"):
        temperature_at(SimulatedAnnotator(length_bias=5.0), 0.8)


def test_the_command(capsys):
    main(["rational", "--set", "noise=0", "--at", "0.7"])
    _, line = capsys.readouterr().out.strip().splitlines()
    assert line.split()[0] == "rational"
    assert float(line.split()[2]) == pytest.approx(0.7, abs=0.002)
    main(["rational", "--at", "0.7", "--by", "thumbs"])
    _, line = capsys.readouterr().out.strip().splitlines()
    assert float(line.split()[3]) == pytest.approx(0.7, abs=0.002)
    with pytest.raises(SystemExit):
        main(["nobody"])
    assert "allowed: contradicting_crowds, default" in capsys.readouterr().err
