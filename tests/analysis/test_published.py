"""Published studies: the numbers are those of the sources, and a damaged table is refused with its place."""

import csv
import json
import shutil

import pandas as pd
import pytest
from places import ROOT

from analysis.claims import Runs
from kto_bench.published import JUDGED, SCORES, Published, available
from kto_bench.results import RecordError

RESULTS = ROOT / "results"
SOURCES = ROOT.parent / "shared" / "published"
needs_sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="the tables that the numbers come from are not here")


@pytest.fixture(scope="module")
def kto():
    return Published.load("kto_paper", RESULTS)


@pytest.fixture(scope="module")
def simpo():
    return Published.load("simpo_paper", RESULTS)


def _source(name):
    with (SOURCES / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@needs_sources
def test_judged_runs_are_those_of_the_log(kto):
    experiments = {"scale": "scale", "imbalance": "imbalance", "one_y_per_x": "one_completion_per_prompt"}
    names = {"unaligned": ("none", "base", False), "kto-one-y-per-x": ("kto", "base", True)}
    expected = []
    for row in _source("kto_2024_runs.csv"):
        loss, start, one = names.get(row["loss"], (row["loss"], row["start"], False))
        if loss == "sft":  # the paper's SFT models are the suite's SFT start, evaluated
            loss, start = "none", "sft"
        key = (experiments[row["study"]], row["model"], start, loss, one)
        numbers = [row[k] for k in ("n_prompts", "wins", "losses", "mean_output_tokens", "median_output_tokens")]
        kept = [float(row[f"frac_{c}"]) for c in ("desirable", "undesirable")]
        expected.append((*key, *kept, *map(float, numbers)))
    logged = kto.judged[kto.judged["experiment"] != "human_evaluation"]
    columns = ["experiment", "name", "start", "loss", "one_completion_per_prompt", "keep_desirable", "keep_undesirable"]
    columns += ["n", "wins", "losses", "mean_tokens", "median_tokens"]
    assert sorted(logged[columns].itertuples(index=False, name=None)) == sorted(expected)
    assert len(expected) == 102


@needs_sources
def test_the_ultrafeedback_table_is_the_source(kto):
    losses = {"SFT": ("none", False), "DPO": ("dpo", False), "ORPO": ("orpo", False), "KTO beta": ("kto", False)}
    losses |= {"KTO one": ("kto", True), "KTO without": ("kto_no_reference_point", False)}
    losses |= {"KTO concave": ("kto_concave", False), "KTO risk": ("kto_risk_neutral", False)}
    losses |= {"KTO no": ("kto_no_reference", False)}
    tasks = {"mmlu_0shot_em": "mmlu", "gsm8k_8shot_cot_em": "gsm8k_cot", "humaneval_0shot_pass1": "humaneval"}
    tasks |= {"bbh_3shot_cot_em": "bbh_cot_fewshot"}
    checked = 0
    for row in _source("kto_2024_ultrafeedback.csv"):
        again = "re-run" in row["method"]
        loss, one = losses["DPO"] if row["method"].startswith("DPO") else next(
            (value for key, value in losses.items() if row["method"].startswith(key)), ("kto", False)
        )  # fmt: skip
        table = kto.scores[kto.scores["experiment"] == ("ultrafeedback_rerun" if again else "ultrafeedback")]
        for column, task in tasks.items():
            found = table[
                (table["loss"] == loss) & (table["one_completion_per_prompt"] == one) & (table["task"] == task)
            ]
            assert len(found) == 1
            if row[column]:
                assert found["value"].iloc[0] == float(row[column])
                checked += 1
            else:  # nobody could check these
                assert found["trust"].iloc[0] == "unverified"
    assert checked == 39


@needs_sources
def test_simpos_main_table_is_the_source(simpo):
    columns = {"alpacaeval2_lc": "alpaca_eval_2_lc", "alpacaeval2_wr": "alpaca_eval_2", "arena_hard": "arena_hard"}
    expected = sorted(float(row[c]) for row in _source("simpo_2024_alpacaeval.csv") for c in columns)
    main = simpo.scores[simpo.scores["experiment"] == "main"]
    assert sorted(main.loc[main["task"].isin(columns.values()), "value"]) == expected
    row = main[(main["name"] == "Llama-3-Instruct 8B") & (main["loss"] == "simpo")].set_index("task")["value"]
    assert row[["alpaca_eval_2_lc", "alpaca_eval_2", "arena_hard", "mt_bench"]].tolist() == [44.7, 40.5, 33.8, 8.0]


def test_downstream_rows_add_up_to_their_printed_means(simpo):
    table = simpo.scores[simpo.scores["experiment"] == "downstream"]
    means = table.groupby(["name", "loss"])["value"].mean().round(2)
    printed = {"kto": 65.83, "dpo": 65.93, "simpo": 65.56}
    assert all(means["Mistral-Instruct 7B", loss] == pytest.approx(mean, abs=0.011) for loss, mean in printed.items())


def test_every_row_says_where_it_is_from(kto, simpo):
    for table in (kto.judged, kto.scores, simpo.scores):
        assert table["source"].str.len().gt(5).all()
    assert (kto.scores.loc[kto.scores["trust"] == "unverified", "source"].str.contains("memory")).all()
    assert simpo.judged.empty
    assert list(simpo.judged) == list(JUDGED)


def test_counts_of_people_are_the_printed_percentages(kto):
    rows = kto.judged[kto.judged["experiment"] == "human_evaluation"].set_index("loss")
    assert [round(100 * rows.loc[loss, "wins"] / 214, 1) for loss in ("kto", "dpo")] == [72.9, 62.1]


def test_unread_answers_are_as_many_as_the_caveat_says(kto):
    logged = kto.judged.dropna(subset=["losses"])
    share = 1 - (logged["wins"] + logged["losses"]) / logged["n"]
    assert (round(100 * share.min()), round(100 * share.max())) == (1, 8)
    assert any("1 to 8% of the prompts" in caveat for caveat in kto.caveats)


def test_models_come_by_family_and_size(kto):
    names = ["Pythia-1.4B", "Pythia-2.8B", "Pythia-6.9B", "Pythia-12B", "Llama-7B", "Llama-13B", "Llama-30B"]
    assert Runs(kto.judged).models() == names


def test_models_and_losses_of_the_suite_are_called_what_the_suite_calls_them(kto, simpo):
    models = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    losses = {path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")}
    for table in (kto.judged, kto.scores, simpo.scores):
        assert set(table["model"]) - {""} <= models
        assert set(table["loss"]) <= losses


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(RESULTS / "published" / "kto_paper", tmp_path / "published" / "mine")
    return tmp_path


def _damage(root, table, change):
    path = root / "published" / "mine" / f"{table}.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


def _cell(column, index, value):
    return lambda frame: frame.assign(**{column: frame[column].where(frame.index != index, value)})


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("judged", _cell("wins", 3, "many"), r"line 5: wins must be a number"),
        ("judged", _cell("wins", 0, "600"), r"line 2: wins and losses must"),
        ("judged", _cell("source", 1, " "), r"line 3: source must not be"),
        ("judged", lambda f: f.assign(keep_desirable="1.5"), r"keep_desirable must be a number above 0, at most 1"),
        ("judged", lambda f: f.drop(columns="judge"), r"lacks judge; its columns must be experiment, model"),
        ("judged", lambda f: f.assign(note="x"), r"has unknown note"),
        ("scores", lambda f: f.assign(trust="sure"), r"trust must be one of primary, secondary, derived, unverified"),
        ("scores", lambda f: f.assign(value="101"), r"value 101 must not be more than scale 100"),
        ("scores", lambda f: f.assign(one_completion_per_prompt="yes"), r"must be one of true, false, got 'yes'"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused_with_its_place(copy, table, change, said):
    _damage(copy, table, change)
    with pytest.raises(RecordError, match=said) as error:
        Published.load("mine", copy)
    assert f"{table}.csv" in str(error.value)


def test_what_a_study_is_must_be_said(copy):
    path = copy / "published" / "mine" / "study.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "caveats": "one"}))
    with pytest.raises(RecordError, match="caveats must be a list of texts"):
        Published.load("mine", copy)
    path.write_text(json.dumps({"title": "x"}))
    with pytest.raises(RecordError, match="exactly the fields title, citation"):
        Published.load("mine", copy)
    path.write_text("{")
    with pytest.raises(RecordError, match="is not JSON"):
        Published.load("mine", copy)


def test_a_study_without_rows_and_one_that_does_not_exist_are_refused(copy):
    for table in ("judged", "scores"):
        (copy / "published" / "mine" / f"{table}.csv").unlink()
    with pytest.raises(RecordError, match=r"needs rows in judged\.csv or scores\.csv"):
        Published.load("mine", copy)
    assert available(copy) == ["mine"]
    with pytest.raises(RecordError, match="studies that exist there: mine"):
        Published.load("yours", copy)


def test_columns_are_documented_by_the_page_on_studies():
    text = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    assert all(f"`{column}`" in text for column in (*JUDGED, *SCORES))
