"""Figure: benchmark scores, one panel per task."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from analysis import forest
from analysis.estimates import estimates, interval_note, sample_size
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep


def answers(sweep: Sweep) -> pd.DataFrame:
    """The benchmarks with the tasks of a group such as MMLU as one. Raises NoDataError if no finished run has any."""
    table = sweep.benchmarks.dropna(subset=["value"])
    if table.empty:
        raise NoDataError("no finished run has benchmark results")
    if "group" in table:  # the tasks of a group such as MMLU together: 57 panels would say little
        whole = table["group"].isna()
        document = table["task"] + "/" + table["doc_id"].astype(str)
        table = table.assign(
            task=table["task"].where(whole, table["group"]), doc_id=table["doc_id"].astype(str).where(whole, document)
        )
    return table


@lru_cache(maxsize=2)  # several figures and tables, at two widths, show them
def scores(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """``estimates`` per "task (metric)", in the order of names. Raises NoDataError if no finished run has any."""
    return {
        f"{task} ({metric})": estimates(
            rows.rename(columns={"value": f"{task} {metric}"}),
            f"{task} {metric}",
            unit="doc_id",
            bounded=bool(rows["value"].between(0, 1).all()),
        )
        for (task, metric), rows in answers(sweep).groupby(["task", "metric"])
    }


def draw(sweep: Sweep) -> Drawing:
    """A panel per task and setting, each on its own axis: tasks are not comparable with each other."""
    tasks = scores(sweep)
    panels = []
    for name, rows in tasks.items():
        task, _, metric = name.removesuffix(")").rpartition(" (")
        percent = bool((rows["value"].abs() <= 1).all())
        for setting, part in rows.groupby("setting"):
            title = "\n".join([task, str(setting)]).strip()
            panels.append(forest.Panel(title, part, f"{metric}{' (%)' if percent else ''}", 100 if percent else 1))
    together = pd.concat(tasks.values())
    caption = (
        f"Benchmark scores by loss and start. {interval_note(together, 'documents')} Small dots: the seeds. "
        f"{sample_size(together, 'documents')} per task, or per group of tasks, whose documents are taken together. "
        "The axes do not start at 0 and differ between tasks."
    )
    return Drawing(forest.draw(panels), caption)


FIGURE = Entry(order=20, title="Benchmarks", make=draw)
