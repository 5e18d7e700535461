"""The page of a sweep of 200 runs: small, soon there, and no longer to read than that of ten."""

import re
import time
import warnings

import browser
import pandas as pd
import pytest
import synthetic

from analysis.report import main
from analysis.style import LOSS_NAMES

LOSSES = [loss for loss in LOSS_NAMES if " " not in loss][:25]
SECONDS = 240
"""Of the processor; a quiet core takes a fifth of that."""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    results, out = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("large")
    for index, loss in enumerate(LOSSES):
        for start, head_start in (("base", 0.0), ("sft", 0.1)):
            for seed in range(4):
                win = 0.3 + 0.012 * index + head_start
                synthetic.write_run(results / "large", loss, start, seed, win=win, tokens=300, prompts=24)
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of a figure that has no room for its panels
        assert main(["large", "--results", str(results), "--out", str(out)]) == 0
    assert time.process_time() - before < SECONDS
    return out


def test_the_page_is_small_and_says_what_it_leaves_out(large):
    html = (large / "index.html").read_text(encoding="utf-8")
    assert len(html.encode()) < 5_000_000
    rows = len(pd.read_csv(large / "tables" / "comparisons.csv"))
    assert f"The first 2,000 of {rows:,} rows are here; tables/comparisons.csv, beside this page, has all." in html
    assert re.search(r"The 200 largest of \d+ are listed; the table “Comparisons” has all\.", html)
    assert re.search(r"<p>\d+ prompts drawn at random", html)


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens(large, width, tmp_path):
    opened = browser.Browser(tmp_path)
    try:
        opened.open(large / "index.html", width=width)
        assert opened.logged == []
        assert opened.evaluate("document.querySelectorAll('th button').length") > 100
        assert opened.evaluate("Array.from(document.images).every(one => one.naturalWidth > 0)")
        assert opened.evaluate("document.querySelectorAll('details.sample[open]').length") == 1
        opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        opened.close()
