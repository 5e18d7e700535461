"""Nominal 95% intervals hold the truth in 94 to 96% of 2,000 simulated studies, or as often as is documented."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"
SPEC = importlib.util.spec_from_file_location("coverage_studies", PATH)
studies = importlib.util.module_from_spec(SPEC)
sys.modules["coverage_studies"] = studies
SPEC.loader.exec_module(studies)

SAMPLING = 1.0
"""Two standard errors of 95% over 2,000 studies."""


@pytest.mark.parametrize("kind", dict.fromkeys(study.kind for study in studies.all_studies() if study.tested))
def test_intervals_cover_as_documented(kind):
    for study in studies.all_studies():
        if study.tested and study.kind == kind:
            low, high = study.known
            assert low - SAMPLING <= studies.measure(study) <= high + SAMPLING, study.regime
