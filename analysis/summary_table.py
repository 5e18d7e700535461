"""Table: everything measured about each loss and start, one row each."""

from __future__ import annotations

import pandas as pd

from analysis import style, text
from analysis.benchmarks import scores
from analysis.estimates import CELL, cells, differences, estimates, rows_of, sample_size
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import KEYS, Sweep

GUARDS = ["mean_tokens", "share_capped", "share_empty", "repetition_4gram"]


def gains(sweep: Sweep) -> pd.DataFrame:
    """Paired differences in win rate: every aligned cell minus the same start without alignment."""
    table = sweep.outcomes.dropna(subset=["preference"])
    found = [cell for cell, _ in cells(table)]
    return differences(table, "preference", [(c, (c[0], c[1], "none")) for c in found if c[2] != "none"])


def score_columns(sweep: Sweep) -> list[str]:
    """The judge's scores of our completions (utility, ...), without those of the reference."""
    known = {*KEYS, "prompt_id", "tokens", "ended", "preference"}
    return [
        column for column in map(str, sweep.outcomes) if column not in known and not column.startswith("reference_")
    ]


def make(sweep: Sweep) -> Sheet:
    """One row per cell; intervals as in the figures, differences adjusted by Holm's method over all rows."""
    outcomes = sweep.outcomes
    if outcomes.empty:
        raise NoDataError("no finished run has completions")
    numbers = _estimated(outcomes, "tokens", "mean_tokens")[[*CELL, "seeds", "prompts"]]
    if outcomes["preference"].notna().any():
        numbers = numbers.merge(_estimated(outcomes, "preference", "win_rate", keep=False), on=CELL, how="left")
        numbers = numbers.merge(_gain_columns(gains(sweep)), on=CELL, how="left")
    for column in score_columns(sweep):
        numbers = numbers.merge(_estimated(outcomes, column, column, keep=False), on=CELL, how="left")
    tasks = scores(sweep) if len(sweep.benchmarks) else {}
    for task, rows in tasks.items():
        numbers = numbers.merge(_renamed(rows, task), on=CELL, how="left")
    present = [guard for guard in GUARDS if guard in sweep.guards]
    numbers = numbers.merge(sweep.guards.groupby(CELL)[present].mean().reset_index(), on=CELL, how="left")
    caption = (
        "By start and loss: means with 95% intervals. Gain: difference in win rate to the same start without "
        "alignment, paired by seed and prompt, with p adjusted by Holm's method over all rows. Tokens, capped (hit "
        f"the token limit), empty and repeated (4-grams) guard the scores. {sample_size(numbers)}."
    )
    return Sheet(numbers, _display(numbers, score_columns(sweep), list(tasks)), caption)


def _estimated(table: pd.DataFrame, column: str, name: str, keep: bool = True) -> pd.DataFrame:
    bounded = bool(table[column].dropna().between(0, 1).all())
    rows = estimates(table, column, bounded=bounded)
    return rows if keep else _renamed(rows, name)


def _renamed(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows.rename(columns={"value": name, "low": f"{name}_low", "high": f"{name}_high"})[
        [*CELL, name, f"{name}_low", f"{name}_high"]
    ]


def _gain_columns(rows: pd.DataFrame) -> pd.DataFrame:
    keys = pd.DataFrame(rows["first"].tolist(), columns=CELL)
    values = rows.rename(columns={"value": "gain", "low": "gain_low", "high": "gain_high", "p_value": "gain_p"})
    columns = ["gain", "gain_low", "gain_high", "gain_p", "p_holm"]
    return keys.join(values[columns]).rename(columns={"p_holm": "gain_p_holm"})


def _display(numbers: pd.DataFrame, score_names: list[str], tasks: list[str]) -> pd.DataFrame:
    rows = []
    for row in rows_of(numbers):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        shown |= {"Seeds": str(row["seeds"]), "Prompts": str(row["prompts"])}
        if "win_rate" in row:
            shown["Win rate (%)"] = text.with_interval(row, "win_rate", 1, 100)
            shown["Gain (points)"] = text.with_interval(row, "gain", 1, 100, sign=True)
            shown["p (Holm)"] = text.p_value(row["gain_p_holm"])
        shown |= {name.replace("_", " ").capitalize(): text.with_interval(row, name, 2) for name in score_names}
        for task in tasks:
            percent = bool(numbers[task].abs().max() <= 1)
            shown[f"{task}{' %' if percent else ''}"] = text.with_interval(row, task, 1, 100 if percent else 1)
        shown["Tokens"] = text.number(row.get("mean_tokens", float("nan")), 1)
        for guard, name in (("share_capped", "Capped"), ("share_empty", "Empty"), ("repetition_4gram", "Repeated")):
            shown[f"{name} (%)"] = text.number(row.get(guard, float("nan")), 1, 100)
        rows.append(shown)
    return pd.DataFrame(rows)


TABLE = Entry(order=10, title="Summary", make=make)
