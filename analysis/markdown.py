"""Markdown of what the analysis shows, in which nothing that a model or a user wrote can become markup."""

from __future__ import annotations

import html
import re

import pandas as pd

SPECIAL = re.compile(r"([\\`*_\[\]|$~#])")


def escape(value: str) -> str:
    """Text on one line that is shown as it is: no HTML, link, image, formula, heading, or end of a table's cell."""
    line = " ".join(str(value).split())
    escaped = SPECIAL.sub(r"\\\1", html.escape(line, quote=False))
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escaped)  # at the beginning these may make a list, a rule or a heading


def bullets(items: list[str]) -> str:
    """A list; the items are escaped."""
    return "\n".join(f"* {escape(item)}" for item in items)


def table(rows: pd.DataFrame, limit: int) -> str:
    """A table of text, escaped, with the first ``limit`` rows; says how many it leaves out."""
    lines = [_row(list(map(str, rows.columns))), "|" + " --- |" * len(rows.columns)]
    lines += [_row([str(value) for value in row]) for row in rows.head(limit).itertuples(index=False, name=None)]
    left = len(rows) - limit
    more = f"\n\n{left} more {'row is' if left == 1 else 'rows are'} in the local report."
    return "\n".join(lines) + (more if left > 0 else "")


def _row(values: list[str]) -> str:
    return "| " + " | ".join(escape(value) for value in values) + " |"
