"""Figure: win rate on AlpacaEval 2 by the temperature of sampling (KTO paper v1 Figure 7)."""

from __future__ import annotations

from matplotlib.lines import Line2D

from analysis import paper_scores, style
from analysis.by_scale import link, look, origin_handles, series
from analysis.evidence import Evidence, short_method_name
from analysis.paper_scores import score_note
from analysis.registry import Drawing, NoDataError, PaperEntry

EXPERIMENT, TASK = "temperature", "alpaca_eval_2"


def draw(evidence: Evidence) -> Drawing:
    """A line per method."""
    rows = paper_scores.published(evidence, EXPERIMENT)
    own = paper_scores.own(evidence)
    own = own[own["task"] == TASK]
    own = own if own["temperature"].nunique() > 1 else own.iloc[:0]
    rows = paper_scores.together(own, rows) if len(own) + len(rows) else rows
    if rows["temperature"].nunique() < 2:
        raise NoDataError(f"no scores on {TASK} at two temperatures")
    with style.settings():
        figure = style.figure(height=2.6)
        axis = figure.subplots()
        found = list(series(rows))
        names = {}
        for index, ((loss, one, origin), part) in enumerate(found):
            ordered = part.sort_values("temperature")
            x = ordered["temperature"] + (index - (len(found) - 1) / 2) * 0.012
            colour = style.colour(loss)
            axis.plot(x, ordered["value"], color=colour, linestyle=link(one, origin), linewidth=1.0)
            axis.vlines(x, ordered["low"], ordered["high"], color=colour, linewidth=1.1)
            axis.plot(x, ordered["value"], **look(loss, ordered["start"].iloc[0], origin))
            names[short_method_name(loss, one)] = (colour, link(one, origin))
        axis.set_xlabel("temperature")
        axis.set_ylabel("win rate (%)")
        axis.set_ylim(bottom=0)
        axis.set_xticks(sorted(rows["temperature"].unique()))
        handles = [Line2D([], [], color=c, linestyle=line, label=name) for name, (c, line) in names.items()]
        style.legend(figure, handles + origin_handles(rows))
    caption = f"Win rate on AlpacaEval 2 by the temperature that answers were sampled with. {score_note(rows)}"
    return Drawing(figure, caption)


PAPER_FIGURE = PaperEntry(order=75, title="AlpacaEval by temperature", make=draw)
