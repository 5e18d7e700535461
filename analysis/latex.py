"""Figures and tables as LaTeX has them: floats with caption and label, tables with booktabs rules."""

from __future__ import annotations

import re

import pandas as pd

from analysis import text

WIDE = 6
"""Columns above which a table spans both columns of a page."""
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$", "·": r"$\cdot$", "\n": " ",
    "π": r"$\pi$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "|": "$|$", "∞": r"$\infty$", "…": r"\ldots{}",
    "“": "``", "”": "''", "‘": "`", "’": "'", "→": r"$\rightarrow$", "β": r"$\beta$", "λ": r"$\lambda$",
    "α": r"$\alpha$", "σ": r"$\sigma$", "Δ": r"$\Delta$", "²": r"$^2$", "†": r"\textdagger{}", "\u00a0": "~",
}  # fmt: skip
NUMBER = re.compile(r"[+−-]?(<?[\d.,]+)(e[+−-]?\d+)?( ?%| s| min.*| h.*)?( ?\[.*\])?$")


def escape(value: str) -> str:
    """Text with what is special to LaTeX, or is not ASCII, written as LaTeX has it."""
    written = "".join(SPECIAL.get(character, character) for character in value)
    return f"{{[}}{written[1:]}" if written.startswith("[") else written  # after a line's end, [ would be an option


def figure(file: str, caption: str, label: str, star: bool) -> str:
    """A figure environment that includes ``file``, over one column or (``star``) both."""
    name, width = ("figure*", r"\textwidth") if star else ("figure", r"\columnwidth")
    return (
        "% needs \\usepackage{graphicx}, and \\graphicspath{{FOLDER/}} where the file lies elsewhere\n"
        f"\\begin{{{name}}}\n"
        "\\centering\n"
        f"\\includegraphics[width={width}]{{{file}}}\n"
        f"\\caption{{{escape(caption)}}}\n"
        f"\\label{{{label}}}\n"
        f"\\end{{{name}}}\n"
    )


def table(shown: pd.DataFrame, caption: str, label: str) -> str:
    """A table environment with booktabs rules: columns of numbers to the right, all others to the left.

    It spans both columns of a page where it has more than WIDE columns, and is scaled down to that width where it must.
    """
    name, width = ("table*", r"\textwidth") if len(shown.columns) > WIDE else ("table", r"\columnwidth")
    escaped = shown.map(escape).rename(columns=escape)
    columns = "".join("r" if is_numeric(shown[column]) else "l" for column in shown)
    body = escaped.to_latex(index=False, column_format=columns)
    return (
        "% needs \\usepackage{booktabs} and \\usepackage{adjustbox}\n"
        f"\\begin{{{name}}}\n"
        "\\centering\n"
        f"\\caption{{{escape(caption)}}}\n"
        f"\\label{{{label}}}\n"
        "\\small\n"
        f"\\begin{{adjustbox}}{{max width={width}}}\n"
        f"{body}"
        "\\end{adjustbox}\n"
        f"\\end{{{name}}}\n"
    )


def is_numeric(column: pd.Series) -> bool:
    """Whether all cells are numbers, with an interval or a unit at most, and at least one is there."""
    cells = [str(cell) for cell in column if str(cell) not in ("", text.MISSING)]
    return bool(cells) and all(NUMBER.match(cell) for cell in cells)
