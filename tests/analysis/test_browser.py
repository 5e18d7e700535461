"""The report in a browser: it sorts, filters, works by keyboard and on a phone, and runs nothing that a model wrote."""

import browser
import pytest
import synthetic

from analysis.report import main

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="needs Chromium on the PATH (Debian and Ubuntu: apt-get install chromium)"
)
RUNS = "Array.from(document.querySelectorAll('#table-summary_table ~ .scroll table')[0].tBodies[0].rows)"
HEADS = "document.querySelectorAll('#table-summary_table ~ .scroll table')[0].tHead.rows[0].cells"
SHOWN = "Array.from(document.querySelectorAll('.answer[data-loss]')).filter(a => a.checkVisibility())"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results, out = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("browsed")
    synthetic.write_sweep(results, seeds=1, prompts=32)
    assert main(["planted", "--results", str(results), "--out", str(out)]) == 0
    return out / "index.html"


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory):
    started = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def opened(shared_browser, page):
    shared_browser.logged.clear()
    shared_browser.open(page)
    return shared_browser


def column(opened, name):
    heads = opened.evaluate(f"Array.from({HEADS}).map(head => head.textContent)")
    index = heads.index(name)
    return index, lambda: opened.evaluate(f"{RUNS}.map(row => row.cells[{index}].textContent)")


def test_our_script_runs_and_a_completions_does_not(opened):
    assert opened.evaluate("document.querySelectorAll('th button').length") > 20
    assert opened.evaluate("document.querySelectorAll('script').length") == 1
    assert opened.evaluate("document.body.textContent.includes('<script>alert(\"inert?\")</script>')")
    assert opened.logged == []
    opened.evaluate(
        "{ const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s) }"
    )
    assert opened.evaluate("window.ran") is None  # the policy would not let it
    assert any("Content Security Policy" in line for line in opened.logged)


def test_a_column_is_sorted_by_keyboard_up_down_and_back(opened):
    index, values = column(opened, "Win rate (%)")
    natural = values()
    number = [float(value.split(" ")[0]) for value in natural]
    opened.evaluate(f"{HEADS}[{index}].querySelector('button').focus()")
    opened.press("Enter")
    assert [float(value.split(" ")[0]) for value in values()] == sorted(number)
    assert opened.evaluate(f"{HEADS}[{index}].ariaSort") == "ascending"
    opened.press("Enter")
    assert [float(value.split(" ")[0]) for value in values()] == sorted(number, reverse=True)
    assert opened.evaluate(f"{HEADS}[{index}].ariaSort") == "descending"
    opened.press("Enter")
    assert values() == natural
    assert opened.evaluate(f"{HEADS}[{index}].getAttribute('aria-sort')") is None


def test_what_is_missing_comes_last_either_way(opened):
    index, values = column(opened, "Gain (points)")
    for _ in range(2):
        opened.evaluate(f"{HEADS}[{index}].querySelector('button').click()")
        assert [value == "–" for value in values()] == [False] * 8 + [True] * 2


def test_samples_are_filtered_by_text_and_choice(opened):
    assert opened.evaluate("document.querySelector('form.filter').checkVisibility()")
    opened.evaluate("document.querySelector('form.filter [name=loss]').focus()")
    opened.evaluate(
        "{ const s = document.querySelector('form.filter [name=loss]'); s.value = 'KTO';"
        "s.dispatchEvent(new Event('input', {bubbles: true})) }"
    )
    assert set(opened.evaluate(f"{SHOWN}.map(a => a.dataset.loss)")) == {"KTO"}
    assert opened.evaluate(f"{SHOWN}.length") == 48  # 24 prompts from two starts
    assert opened.evaluate("document.querySelector('form.filter [role=status]').textContent").startswith("48 of 240")
    opened.evaluate("document.querySelector('form.filter [name=words]').focus()")
    opened.type("no completion says this")
    assert opened.evaluate(f"{SHOWN}.length") == 0
    opened.evaluate("document.querySelector('form.filter').reset()")
    opened.evaluate("new Promise(done => setTimeout(done, 50))")
    assert opened.evaluate("document.querySelector('form.filter [role=status]').textContent").startswith("240 of 240")


def test_the_first_tab_stop_skips_to_the_summary_and_focus_is_seen(opened):
    opened.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    assert opened.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    opened.press("Enter")
    assert opened.evaluate("location.hash") == "#summary"
    opened.press("Tab")
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert opened.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(shared_browser, page, width):
    shared_browser.open(page, width=width)
    shared_browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert shared_browser.evaluate("document.documentElement.scrollWidth") <= width


def test_without_script_all_is_there_and_nothing_is_dead(shared_browser, page):
    shared_browser.open(page, script=False)
    assert shared_browser.evaluate("document.querySelectorAll('th button').length") == 0
    assert not shared_browser.evaluate("document.querySelector('form.filter').checkVisibility()")
    assert shared_browser.evaluate("document.querySelectorAll('.answer[data-loss]').length") == 240
