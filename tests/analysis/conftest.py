"""One planted sweep, written and loaded once."""

import pytest
import synthetic

from kto_bench.results import Sweep


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    synthetic.write_sweep(folder, "planted", seeds=5, prompts=128)
    return folder


@pytest.fixture(scope="session")
def sweep(results):
    return Sweep.load("planted", results)
