"""What a training will see of its feedback, before it begins: counts, lengths, cuts, examples, weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from kto_bench.feedback.tokenised import TokenisedFeedback, mapped
from kto_bench.feedback.tokens import Encoder
from kto_bench.losses.class_weights import advised_weight
from kto_bench.losses.prospect import Prospect

EXAMPLES = 3
BINS = 32
"""At most so many bins of equal ratio in a histogram of lengths."""
MAX_CHARACTERS = 1500
"""Of a prompt's end and of a completion's start, in an example."""


def data_report(
    folder: Path, encoder: Encoder, as_trained: Callable[[TokenisedFeedback], TokenisedFeedback] = lambda data: data
) -> dict[str, Any]:
    """Everything below, as plain JSON values, of the tokens in ``folder``. Lengths are in tokens.

    ``as_trained`` is what the training does to the tokens before a loss sees them; examples are shown after it.

    ``classes``: of each class its completions (``n``, ``sources``, ``truncated``, ``lengths`` before truncation and
    their ``histogram``); ``prompts``: the same of the distinct prompts; ``weights``: those that the KTO paper
    recommends; ``examples``: ``prompt`` has no loss, ``completion`` has, end token included.
    """
    prompts, table = mapped(folder)
    data = TokenisedFeedback.of(prompts, table)
    columns = pd.DataFrame({name: table[name].to_numpy() for name in ("whole", "prompt", "desirable")})
    columns["cut"] = table["whole"].to_numpy() > np.diff(_offsets(table["ids"]))
    sources = table["source"].dictionary_encode()
    columns["source"] = pd.Categorical(sources.to_pandas() if len(table) else [])
    counts = {name: len(part) for name, part in _classes(data.kind, columns).items()}
    edges = _edges(columns["whole"])
    return {
        "kind": data.kind,
        "completions": len(table),
        "classes": {name: _class(part, edges) for name, part in _classes(data.kind, columns).items()},
        "prompts": {
            "n": len(prompts),
            "truncated": data.truncated["prompt"],
            **_lengths(prompts["whole"].to_numpy(), _edges(prompts["whole"].to_numpy())),
        },
        "weights": _weights(counts),
        "examples": _examples(as_trained(data), columns, encoder),
    }


def summary(report: dict[str, Any], repetitions: dict[str, Any] | None = None) -> list[str]:
    """The report as a few lines for the screen, with what ``duplicates.repetitions`` found of the rows."""
    classes = {name: part for name, part in report["classes"].items() if part["n"]}
    lines = [
        f"data: {report['completions']:,} completions of {report['prompts']['n']:,} prompts; "
        + "; ".join(f"{part['n']:,} {name}{_of_sources(part['sources'])}" for name, part in classes.items())
    ]
    for name, part in {**classes, "prompts": report["prompts"]}.items():
        lengths = part["lengths"]
        lines.append(
            f"data: {name}: {lengths['median']:g} tokens in the median, {lengths['p95']:g} at the 95th percentile, "
            f"{lengths['max']} at most; {part['truncated']:,} cut"
        )
    for name, found in (repetitions or {}).items():
        if found["count"]:
            rows = " and ".join(found["ids"][0])
            lines.append(f"data: {found['count']:,} {name.replace('_', ' ')}, the first of them the rows {rows}")
    if report["weights"]:
        lines.append(f"data: {report['weights']['advice']}")
    return lines


def _of_sources(sources: dict[str, int]) -> str:
    named = [f"{count:,} from {name}" for name, count in sources.items() if name]
    return f" ({', '.join(named)})" if named else ""


def _offsets(column: pa.ChunkedArray) -> np.ndarray:
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1, int)


def _classes(kind: str, columns: pd.DataFrame) -> dict[str, pd.DataFrame]:
    if kind == "demonstrations":
        return {"demonstrated": columns}
    return {"desirable": columns[columns["desirable"]], "undesirable": columns[~columns["desirable"]]}


def _class(part: pd.DataFrame, edges: np.ndarray) -> dict[str, Any]:
    sources = part["source"].value_counts(sort=False)
    return {
        "n": len(part),
        "sources": {str(name): int(count) for name, count in sources.items() if count},
        "truncated": int(part["cut"].sum()),
        **_lengths(part["whole"].to_numpy(), edges),
    }


def _edges(lengths: Any) -> np.ndarray:
    shortest, longest = int(min(lengths, default=1)), int(max(lengths, default=1))
    return np.unique(np.geomspace(shortest, longest + 1, BINS + 1).round().astype(int))


def _lengths(lengths: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Quantiles, and the number of lengths from each edge to below the next."""
    if not len(lengths):
        return {"lengths": dict.fromkeys(("mean", "median", "p95", "max"), 0), "histogram": {"edges": [], "counts": []}}
    found = {
        "mean": round(float(lengths.mean()), 2),
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95, method="inverted_cdf")),
        "max": int(lengths.max()),
    }
    counts = np.histogram(lengths, bins=edges)[0]
    return {"lengths": found, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _weights(counts: dict[str, int]) -> dict[str, Any] | None:
    """The weight that makes lambda_D n_D / (lambda_U n_U) as the KTO paper advises; None without two classes."""
    advice = Prospect.advised_ratio
    if advice is None or not all(counts.get(name) for name in ("desirable", "undesirable")):
        return None
    desirable, undesirable = counts["desirable"], counts["undesirable"]
    changed, low, high = advised_weight(advice, (1.0, 1.0), (desirable, undesirable))
    ratio = desirable / undesirable
    if low <= 1 <= high:
        text = f"desirable_weight 1 and undesirable_weight 1 suit {ratio:.3g} desirable per undesirable completion"
    else:
        other = "undesirable_weight" if changed == "desirable_weight" else "desirable_weight"
        text = (
            f"with {ratio:.3g} desirable per undesirable completion, {changed} between {low:.12g} and {high:.12g} and "
            f"{other} 1 are recommended"
        )
    return {"weight": changed, "low": low, "high": high, "ratio": ratio, "advice": f"{text} ({advice.source})"}


def _examples(data: TokenisedFeedback, columns: pd.DataFrame, encoder: Encoder) -> list[dict[str, Any]]:
    """Drawn at random, always the same ones: of each class, and one that was cut where there is one."""
    order = np.random.default_rng(0).permutation(len(columns))
    drawn = columns.iloc[order]
    first = [part.index[:1] for part in (drawn[drawn["desirable"]], drawn[~drawn["desirable"]], drawn[drawn["cut"]])]
    chosen = dict.fromkeys(int(index) for part in [*first, drawn.index] for index in part[:EXAMPLES])
    return [_example(data, columns.loc[index], index, encoder) for index in list(chosen)[:EXAMPLES]]


def _example(data: TokenisedFeedback, row: Any, index: int, encoder: Encoder) -> dict[str, Any]:
    prompt, completion = data.prompts[data.prompt_of[index]], data.completions[index]
    before, after = encoder.shown(prompt), encoder.shown(completion)
    good = "demonstrated" if data.kind == "demonstrations" else "desirable"
    return {
        "row": data.ids[index],
        "class": good if row["desirable"] else "undesirable",
        "source": str(row["source"]),
        "prompt": before if len(before) <= MAX_CHARACTERS else f"… {before[-MAX_CHARACTERS:]}",
        "completion": after if len(after) <= MAX_CHARACTERS else f"{after[:MAX_CHARACTERS]} …",
        "prompt_tokens": len(prompt),
        "completion_tokens": len(completion),
        "cut": bool(row["cut"]),
    }
