"""Figure: KTO on a fraction of the desirable or undesirable completions (KTO paper v1 Figure 6)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis import style
from analysis.by_scale import EXPERIMENT as SCALE
from analysis.by_scale import look, origin_handles
from analysis.estimates import rows_of
from analysis.evidence import OWN, PUBLISHED, Evidence, grouped, source_note
from analysis.registry import Drawing, NoDataError, PaperEntry

EXPERIMENT = "imbalance"
COMPARED_WITH = "dpo"
CLASSES = {"keep_desirable": "desirable", "keep_undesirable": "undesirable"}


def kept(evidence: Evidence) -> pd.DataFrame:
    """Judged runs with class weights, on all or a part of one class; published ones of all data included.

    Raises NoDataError where no run left anything out.
    """
    rows = evidence.judged(EXPERIMENT)
    part = rows[(rows["keep_desirable"] < 1) | (rows["keep_undesirable"] < 1)]
    if part.empty:
        raise NoDataError("no judged run was trained on a part of the desirable or undesirable completions")
    whole = _same_models(evidence, part, list(part["loss"].unique()))
    return pd.concat([rows[(rows["experiment"] == EXPERIMENT) | rows.index.isin(part.index)], whole]).drop_duplicates(
        subset=["origin", "name", "start", "loss", "variant", *CLASSES, "desirable_weight", "undesirable_weight", "n"]
    )


def compared_with(evidence: Evidence, rows: pd.DataFrame) -> pd.DataFrame:
    """DPO's runs of the same models on all data."""
    return _same_models(evidence, rows, [COMPARED_WITH])


def _same_models(evidence: Evidence, rows: pd.DataFrame, losses: list[str]) -> pd.DataFrame:
    """Runs of ``losses`` of the models of ``rows`` on all data, from any start."""
    found = evidence.judged(SCALE)
    whole = found[(found["keep_desirable"] == 1) & (found["keep_undesirable"] == 1)]
    whole = whole[whole["loss"].isin(losses) & ~whole["one_completion_per_prompt"].astype(bool)]
    models = {(row["origin"], row["name"]) for row in rows_of(rows)}
    starts = set(rows["start"]) if COMPARED_WITH not in losses else set(whole["start"])
    same = [(row["origin"], row["name"]) in models and row["start"] in starts for row in rows_of(whole)]
    return whole[same]


def weighting(row: dict[str, object]) -> str:
    """Whether the class weights make up for what was left out."""
    return "equal" if row["desirable_weight"] == row["undesirable_weight"] else "corrected"


def draw(evidence: Evidence) -> Drawing:
    """A column per class, a row per way of weighting them; horizontal bands are DPO on all data."""
    rows = kept(evidence)
    rows = rows.assign(weighting=[weighting(row) for row in rows_of(rows)])
    part = (rows["keep_desirable"] < 1) | (rows["keep_undesirable"] < 1)
    weightings = [kind for kind in ("corrected", "equal") if (rows.loc[part, "weighting"] == kind).any()]
    bands = compared_with(evidence, rows)
    titles = {"corrected": style.fitting("weights make up for it", "weights make up"), "equal": "weights 1 : 1"}
    completions = style.fitting(" completions kept", " kept")
    with style.settings():
        figure = style.figure(height=style.fitting(2.3, 1.9) * len(weightings) + style.fitting(0.7, 1.2))
        axes = figure.subplots(len(weightings), 2, squeeze=False, sharex=True, sharey=True)
        for kind, line in zip(weightings, axes, strict=True):
            for (column, name), axis in zip(CLASSES.items(), line, strict=True):
                _panel(axis, _of(rows, column, kind), column)
                for band in rows_of(bands):
                    _band(axis, band)
                axis.set_title(f"{name}{completions}" + (f"\n{titles[kind]}" if len(weightings) > 1 else ""))
                if kind == weightings[-1]:
                    axis.set_xlabel(f"{name}{completions} (%)")
            line[0].set_ylabel("win rate (%)")
        one_model = rows["name"].nunique() == 1
        losses = sorted(rows["loss"].unique(), key=style.loss_order)
        starts = sorted(rows["start"].unique(), key=style.start_order)
        handles = [
            Line2D([], [], color=style.colour(loss), linewidth=2.4, label=style.loss_name(loss)) for loss in losses
        ]
        handles += (style.start_handles(starts) if len(starts) > 1 else []) + origin_handles(rows)
        handles += [
            Line2D(
                [], [], color=style.colour(band["loss"]), linestyle=style.line(band["start"]),
                linewidth=1.6 if band["origin"] == OWN else 0.9,
                label=f"{style.loss_name(band['loss'])} from {style.start_name(band['start'])}, all data, "
                f"{band['origin']}{'' if one_model else ', ' + band['name']}",
            )
            for band in rows_of(bands)
        ]  # fmt: skip
        style.legend(figure, handles)
    models = " and ".join(f"{name} ({origin})" for (origin, name), _ in grouped(rows, ["origin", "name"]))
    lines = (
        "Horizontal lines with bands: DPO of the same model on all data, with its interval."
        if len(bands)
        else "No run of DPO on all data is at hand to compare with."
    )
    caption = (
        f"Win rate of {models} after training on a part of one class and all of the other one; where weights make up "
        "for it, the smaller class weighs more in proportion. At 100% with weights that make up for it one class "
        "weighs 4/3; where there is no such run, the one with weights 1 : 1 is shown. "
        f"{lines} {source_note(pd.concat([rows, bands]))}"
    )
    return Drawing(figure, caption)


def _of(rows: pd.DataFrame, column: str, kind: str) -> pd.DataFrame:
    """The rows of one panel: a class, the other one whole. Of all data, the run with this weighting if there is one."""
    other = next(name for name in CLASSES if name != column)
    one_class = rows[(rows[other] == 1)]
    weight, other_weight = (name.replace("keep_", "") + "_weight" for name in (column, other))
    whole = one_class[one_class[column] == 1]
    # at 100% a weight that is not 1 belongs to the class whose panel this is
    own_weight = whole[(whole["weighting"] == kind) & (whole[other_weight].fillna(1) == 1)]
    covered = set(zip(own_weight["origin"], own_weight["name"], own_weight["start"], strict=True))
    rest = whole[(whole["weighting"] == "equal") & (whole[weight].fillna(1) == 1)]
    rest = rest[[key not in covered for key in zip(rest["origin"], rest["name"], rest["start"], strict=True)]]
    return pd.concat([one_class[(one_class[column] < 1) & (one_class["weighting"] == kind)], own_weight, rest])


def _panel(axis: Axes, rows: pd.DataFrame, column: str) -> None:
    keys = ["loss", "name", "start", "origin"]
    series = sorted(grouped(rows, keys), key=lambda item: (item[0][3], style.loss_order(item[0][0]), item[0][1:]))
    for index, ((loss, _, start, origin), part) in enumerate(series):
        ordered = part.sort_values(column)
        x = ordered[column].astype(float) * 100 * 1.06 ** (index - (len(series) - 1) / 2)
        value, low, high = (ordered[name].astype(float) * 100 for name in ("value", "low", "high"))
        colour = style.colour(loss)
        axis.plot(x, value, color=colour, linewidth=0.9, linestyle=style.SOLID if origin == OWN else style.DASHED)
        axis.vlines(x, low, high, color=colour, linewidth=1.2)
        axis.plot(x, value, **look(loss, start, origin))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator([1, 5, 10, 25, 50, 100]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    axis.minorticks_off()
    axis.tick_params(labelbottom=True)


def _band(axis: Axes, row: dict[str, object]) -> None:
    colour = style.colour(str(row["loss"]))
    value, low, high = (100 * float(row[key]) for key in ("value", "low", "high"))  # type: ignore[arg-type]
    axis.axhspan(low, high, color=colour, alpha=0.08, linewidth=0, zorder=0.5)
    width = 0.9 if row["origin"] == PUBLISHED else 1.6
    axis.axhline(value, color=colour, linestyle=style.line(str(row["start"])), linewidth=width, zorder=0.7)


PAPER_FIGURE = PaperEntry(order=50, title="Imbalance of the two classes", make=draw)
