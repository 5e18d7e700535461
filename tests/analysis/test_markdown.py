"""Text in Markdown, judged by a parser: whatever it is, it is shown as it is and becomes no markup."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from analysis import markdown

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
# CommonMark replaces NUL; surrogates are in no file.
ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
MARKUP = st.text(st.sampled_from(list("*_`~|<>[]()!#-+=.:\\&;$1 \nab")), max_size=24)


def shown(inline: Token) -> str:
    """The text of an inline token, which holds nothing but text."""
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}, inline
    return "".join(child.content for child in inline.children or [])


@given(ANY_TEXT | MARKUP)
@example("<script>alert(1)</script>")
@example("![x](http://host/pixel.png)")
@example("1. one")
@example("1) one")
@example("- a")
@example("---")
@example("===")
@example("    code")
@example("# heading")
@example("```\ncode")
@example("&lt;b&gt;")
@example("\\")
@example("[x]: http://host")
def test_any_text_is_shown_as_it_is(text: str) -> None:
    tokens = PARSER.parse(markdown.escape(text))
    if not text.split():
        assert tokens == []
        return
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(tokens[1]) == " ".join(text.split())


@given(st.lists(st.lists(ANY_TEXT | MARKUP, min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_cell_of_a_table_holds_any_text(rows: list[list[str]]) -> None:
    tokens = PARSER.parse(markdown.table(pd.DataFrame(rows, columns=["a|b", "c"]), limit=10))
    cells = [shown(token) for token in tokens if token.type == "inline"]
    assert cells == ["a|b", "c", *(" ".join(cell.split()) for row in rows for cell in row)]
    assert sum(token.type == "tr_open" for token in tokens) == 1 + len(rows)


@given(st.lists(ANY_TEXT | MARKUP, min_size=1, max_size=4))
def test_a_list_has_an_item_for_each_text(items: list[str]) -> None:
    items = [f"x {item}" for item in items]
    tokens = PARSER.parse(markdown.bullets(items))
    assert [shown(token) for token in tokens if token.type == "inline"] == [" ".join(item.split()) for item in items]
    assert sum(token.type == "list_item_open" for token in tokens) == len(items)


@pytest.mark.parametrize(
    ("limit", "written"),
    [
        (3, "| n |\n| --- |\n| a |\n| b |\n| c |"),
        (2, "| n |\n| --- |\n| a |\n| b |\n\n1 more row is in the local report."),
        (1, "| n |\n| --- |\n| a |\n\n2 more rows are in the local report."),
    ],
)
def test_a_long_table_says_what_it_leaves_out(limit: int, written: str) -> None:
    assert markdown.table(pd.DataFrame({"n": ["a", "b", "c"]}), limit) == written
