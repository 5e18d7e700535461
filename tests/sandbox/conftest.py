from pathlib import Path

import pytest
import yaml


@pytest.fixture
def conf():
    """Reads a file of ``conf/``."""
    root = Path(__file__).parents[2] / "conf"
    return lambda name: yaml.safe_load((root / name).read_text(encoding="utf-8"))
