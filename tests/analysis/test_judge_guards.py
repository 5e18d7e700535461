"""What is known of a judge stands beside the scores that it gave."""

from __future__ import annotations

import json
from pathlib import Path

import synthetic

from analysis import guards_table
from kto_bench.results import Sweep


def test_position_bias_noise_and_cost_are_shown_where_they_are_known(tmp_path: Path) -> None:
    known, unknown = (synthetic.write_run(tmp_path / "s", "kto", "sft", seed) for seed in (0, 1))
    scores = json.loads((known / "scores.json").read_text())
    scores["head_to_head"] |= {
        "position": {"first_preferred": 0.625, "n": 8, "standard_error": 0.1, "consistent": 0.75},
        "noise": {"differing": 0.2, "deviation": 0.3, "standard_error": 0.0123, "n": 16},
        "account": {"calls": 32, "input_tokens": 100, "output_tokens": 10, "dollars": 1.5},
    }
    (known / "scores.json").write_text(json.dumps(scores))
    sheet = guards_table.make(Sweep.load("s", tmp_path))
    columns = ["First preferred (%)", "Same in both orders (%)", "Judge noise", "Judge cost ($)"]
    assert sheet.display[columns].to_numpy().tolist() == [["62.5", "75.0", "1.23", "1.50"], ["–"] * 4]
    assert "50% is fair" in sheet.caption
    (known / "scores.json").write_text((unknown / "scores.json").read_text())
    plain = guards_table.make(Sweep.load("s", tmp_path))
    assert not set(columns) & set(plain.display)
    assert "fair" not in plain.caption
