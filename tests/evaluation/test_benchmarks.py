import json
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import CHAT_TEMPLATE, LAST_WORD_TEMPLATE, bigram_model, build_model, build_tokenizer

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.errors import EvaluationError

COUNTRIES = [("france", "paris"), ("italy", "rome"), ("spain", "madrid")]
FOLLOWS = {"france": "paris", "italy": "rome", "spain": "rome"}  # right, right, wrong

DATASET = """\
from datasets import Dataset, DatasetDict

def load(**options):
    rows = [{"country": country, "city": city} for country, city in %r]
    return DatasetDict({"test": Dataset.from_list(rows)})
"""
COMMON = "custom_dataset: !function data.load\ntest_split: test\ndoc_to_text: 'capital of {{country}}'\n"
CHOICE = (
    COMMON
    + """\
task: tiny_choice
output_type: multiple_choice
doc_to_choice: [paris, rome, madrid]
doc_to_target: city
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 3}
"""
)
GENERATE = (
    COMMON
    + """\
task: tiny_generate
output_type: generate_until
doc_to_target: city
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
filter_list:
  - {name: first, filter: [{function: take_first}]}
  - {name: word, filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]}
metric_list: [{metric: exact_match}]
metadata: {version: 1}
"""
)
GROUP = "group: tiny_group\ntask: [tiny_choice, tiny_generate]\nmetadata: {version: 0}\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "tasks"
    path.mkdir()
    files = {"data.py": DATASET % COUNTRIES, "choice.yaml": CHOICE, "generate.yaml": GENERATE, "group.yaml": GROUP}
    for name, text in files.items():
        (path / name).write_text(text)
    return path


@pytest.fixture(scope="module")
def last_word_tokenizer():
    return build_tokenizer(LAST_WORD_TEMPLATE)


def run(folder, tokenizer, *tasks, model=None, **fields):
    benchmarks = Benchmarks(tasks=tasks, include_path=str(folder), **fields)
    return benchmarks.run(model or bigram_model(tokenizer, FOLLOWS), tokenizer, seed=0)


def test_multiple_choice_by_hand(folder, last_word_tokenizer):
    scores, rows = run(folder, last_word_tokenizer, "tiny_choice")
    score = scores["tiny_choice"]
    assert (score["metric"], score["filter"], score["n"], score["version"]) == ("acc", "none", 3, 3)
    assert score["num_fewshot"] == 0
    assert score["value"] == pytest.approx(2 / 3)
    assert score["stderr"] == pytest.approx(1 / 3)  # sample deviation of 1, 1, 0 is sqrt(1/3); over sqrt(3)
    assert set(score["metrics"]) == {"acc,none", "acc_norm,none"}
    assert [row for row in rows if row["metric"] == "acc"] == [
        {"task": "tiny_choice", "metric": "acc", "doc_id": 0, "value": 1.0},
        {"task": "tiny_choice", "metric": "acc", "doc_id": 1, "value": 1.0},
        {"task": "tiny_choice", "metric": "acc", "doc_id": 2, "value": 0.0},
    ]
    json.dumps([scores, rows])


def test_generate_until_by_hand_and_two_filters(folder, last_word_tokenizer):
    scores, rows = run(folder, last_word_tokenizer, "tiny_generate")
    score = scores["tiny_generate"]
    assert (score["metric"], score["n"]) == ("exact_match,first", 3)
    assert score["value"] == pytest.approx(2 / 3)
    assert score["metrics"]["exact_match,word"]["value"] == pytest.approx(2 / 3)
    values = {(row["metric"], row["doc_id"]): row["value"] for row in rows}
    assert values == {
        (f"exact_match,{name}", doc): value for name in ("first", "word") for doc, value in enumerate([1.0, 1.0, 0.0])
    }


def test_the_score_s_metric_can_be_chosen(folder, last_word_tokenizer):
    chosen = {"tiny_choice": "acc_norm", "tiny_generate": "exact_match,word"}
    scores, _ = run(folder, last_word_tokenizer, "tiny_choice", "tiny_generate", metrics=chosen)
    assert scores["tiny_choice"]["metric"] == "acc_norm"
    assert (scores["tiny_generate"]["metric"], scores["tiny_generate"]["filter"]) == ("exact_match,word", "word")
    with pytest.raises(ConfigError, match=r"metrics.tiny_choice: 'f1' is not one of acc,none, acc_norm,none"):
        run(folder, last_word_tokenizer, "tiny_choice", metrics={"tiny_choice": "f1"})


def test_a_group_runs_its_tasks(folder, last_word_tokenizer):
    scores, rows = run(folder, last_word_tokenizer, "tiny_group", limit=2)
    assert set(scores) == {"tiny_choice", "tiny_generate"}
    assert {score["n"] for score in scores.values()} == {2}
    assert {row["doc_id"] for row in rows} == {0, 1}


def test_two_checkpoints_are_both_asked(folder, last_word_tokenizer):
    right = bigram_model(last_word_tokenizer, dict(COUNTRIES))
    wrong = bigram_model(last_word_tokenizer, {"france": "rome", "italy": "madrid", "spain": "paris"})
    for model, value in ((right, 1.0), (wrong, 0.0), (right, 1.0)):
        scores, _ = run(folder, last_word_tokenizer, "tiny_choice", "tiny_generate", model=model)
        assert [score["value"] for score in scores.values()] == [value, value]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_prompts_are_encoded_as_in_training(folder, tokenizer, encoder, family):
    """The first ids, and log-likelihoods against ones computed here from Encoder.prompt + Encoder.completion."""
    import torch

    model = build_model(family)
    scores, rows = run(folder, tokenizer, "tiny_choice", "tiny_generate", model=model, batch_size=2)
    prompts = [encoder.prompt(({"role": "user", "content": f"capital of {country}"},)) for country, _ in COUNTRIES]
    assert scores["tiny_choice"]["first_token_ids"] == prompts[0][:8]
    assert scores["tiny_generate"]["first_token_ids"] == prompts[0][:8]
    cities = [city for _, city in COUNTRIES]
    expected = []
    for prompt, city in zip(prompts, cities, strict=True):
        with torch.no_grad():
            log_probs = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        likelihoods = [float(log_probs[encoder.completion(choice)[0]]) for choice in cities]
        expected.append(float(likelihoods.index(max(likelihoods)) == cities.index(city)))
    assert [row["value"] for row in rows if row["metric"] == "acc"] == expected


@pytest.mark.parametrize("end", ["<|end|>", "</s>"])
def test_generation_stops_at_the_template_s_end_token_and_at_eos(folder, tokenizer, end):
    """Unless the end token stops it, this policy goes on to say "paris rome", which is no exact match."""
    model = bigram_model(tokenizer, {"<|assistant|>": "paris", "paris": end, end: "rome"}, otherwise="rome")
    scores, rows = run(folder, tokenizer, "tiny_generate", model=model)
    assert [row["value"] for row in rows if row["metric"] == "exact_match,first"] == [1.0, 0.0, 0.0]
    assert scores["tiny_generate"]["chat_template"] is True


def test_start_of_the_answer_given_by_the_task_is_part_of_the_prompt(folder, tokenizer, encoder):
    (folder / "choice.yaml").write_text(CHOICE + "gen_prefix: the\n")
    model = bigram_model(tokenizer, {"the": "rome"})
    scores, rows = run(folder, tokenizer, "tiny_choice", model=model)
    prompt = encoder.prompt(({"role": "user", "content": "capital of france"},))
    assert scores["tiny_choice"]["first_token_ids"] == [*prompt, tokenizer.convert_tokens_to_ids("the")][:8]
    assert [row["value"] for row in rows if row["metric"] == "acc"] == [0.0, 1.0, 0.0]


def test_few_shot_examples_are_turns_and_follow_the_seed(folder, tokenizer):
    (folder / "choice.yaml").write_text(CHOICE + "fewshot_split: test\n")
    model = build_model("llama", positions=128)
    benchmarks = Benchmarks(tasks=("tiny_choice",), include_path=str(folder), num_fewshot=1)
    ids = []
    for seed in (0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3):
        scores, _ = benchmarks.run(model, tokenizer, seed)
        assert scores["tiny_choice"]["num_fewshot"] == 1
        ids.append(scores["tiny_choice"]["first_token_ids"])
    assert len({tuple(one) for one in ids[:8]}) == 1
    assert len({tuple(one) for one in ids}) > 1
    shown = tokenizer.decode(ids[0])
    assert shown.startswith("<s> <|user|> capital of")
    assert "<|assistant|>" in shown


def test_without_a_chat_template_text_is_continued(folder, last_word_tokenizer):
    bare = build_tokenizer(None)
    scores, _ = run(folder, bare, "tiny_choice", apply_chat_template=False)
    assert scores["tiny_choice"]["value"] == pytest.approx(2 / 3)
    assert scores["tiny_choice"]["chat_template"] is False
    with pytest.raises(ConfigError, match="has no chat template; set it to false"):
        run(folder, bare, "tiny_choice")


def test_a_doubled_bos_is_refused(folder):
    from tokenizers.processors import TemplateProcessing

    bare = build_tokenizer(None)
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="<s> <s> $A", special_tokens=[("<s>", 0)])
    with pytest.raises(EvaluationError, match="starts with two BOS"):
        run(folder, bare, "tiny_choice", apply_chat_template=False)


def test_an_answer_that_begins_with_an_indented_line_keeps_it():
    """In the manner of Llama 2 and Mistral, whose decoder takes a space off the start."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from kto_bench.evaluation.benchmarks.policy_lm import PolicyLM

    words = ["<s>", "</s>", "▁▁▁", "▁return", "▁1", "\n", "▁Paris"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="</s>"))
    plain.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    lm = PolicyLM(build_model("llama"), tokenizer, 1, chat=False)
    line = [2, 3, 4, 5]
    assert tokenizer.decode([*line, *line]) == "   return 1\n    return 1\n"  # which is no Python
    assert lm.tok_decode([*line, *line]) == "    return 1\n    return 1\n"
    assert lm.tok_decode([6, 5, *line]) == "Paris\n    return 1\n"
    assert lm.tok_decode([]) == ""
    assert lm.tok_decode(1, skip_special_tokens=False) == "</s>"


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, "{{ bos_token }} " + CHAT_TEMPLATE])
def test_one_bos_whether_or_not_the_template_writes_it(folder, template):
    tokenizer = build_tokenizer(template)
    scores, _ = run(folder, tokenizer, "tiny_choice", "tiny_generate", model=build_model("llama"))
    for score in scores.values():
        assert score["first_token_ids"].count(tokenizer.bos_token_id) == 1


def test_prompts_that_do_not_fit_keep_their_end_and_are_counted(folder, tokenizer):
    model = build_model("llama", positions=6)
    scores, _ = run(folder, tokenizer, "tiny_choice", model=model)
    assert scores["tiny_choice"]["truncated"] == 9  # 3 documents with 3 choices
    assert run(folder, tokenizer, "tiny_choice", model=build_model("llama"))[0]["tiny_choice"]["truncated"] == 0


def test_policy_and_tokenizer_are_left_as_they_were(folder):
    tokenizer, model = build_tokenizer(), build_model("llama").train()
    before = tokenizer.pad_token_id, len(tokenizer), tokenizer.padding_side
    run(folder, tokenizer, "tiny_generate", model=model)
    assert (tokenizer.pad_token_id, len(tokenizer), tokenizer.padding_side) == before
    assert model.training


def test_a_failing_task_is_a_failed_evaluation(folder, last_word_tokenizer):
    (folder / "data.py").write_text("def load(**options):\n    raise OSError('no such file: facts.json')\n")
    with pytest.raises(EvaluationError, match=r"tiny_choice: .*no such file: facts\.json"):
        run(folder, last_word_tokenizer, "tiny_choice")


def test_an_outcome_that_is_no_number_is_a_failed_evaluation(folder, last_word_tokenizer):
    (folder / "data.py").write_text(
        DATASET % COUNTRIES
        + "def outcome(doc, results):\n    return {'acc': float('nan') if doc['city'] == 'rome' else 1}\n"
    )
    (folder / "choice.yaml").write_text(CHOICE + "process_results: !function data.outcome\n")
    with pytest.raises(EvaluationError, match="tiny_choice: document 1: acc is not a number"):
        run(folder, last_word_tokenizer, "tiny_choice")


def test_n_counts_the_documents_that_have_an_outcome(folder, last_word_tokenizer):
    (folder / "data.py").write_text(
        DATASET % COUNTRIES + "def outcome(doc, results):\n    return {} if doc['city'] == 'rome' else {'acc': 1}\n"
    )
    (folder / "choice.yaml").write_text(CHOICE + "process_results: !function data.outcome\n")
    scores, rows = run(folder, last_word_tokenizer, "tiny_choice")
    assert scores["tiny_choice"]["n"] == 2
    assert [row["doc_id"] for row in rows] == [0, 2]


def test_console_stays_quiet(folder, last_word_tokenizer, capfd):
    run(folder, last_word_tokenizer, "tiny_choice", "tiny_generate")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_unknown_tasks_are_refused_with_near_matches(folder):
    Benchmarks(tasks=("tiny_group",), include_path=str(folder)).check()
    with pytest.raises(ConfigError, match=r"'tiny_choise' \(near: tiny_choice"):
        Benchmarks(tasks=("tiny_choise",), include_path=str(folder)).check()


def test_identity_follows_the_content_of_the_task_files(folder, tmp_path):
    benchmarks = Benchmarks(tasks=("tiny_choice",), include_path=str(folder))
    before = benchmarks.identity()
    elsewhere = folder.rename(tmp_path / "moved")
    assert Benchmarks(tasks=("tiny_choice",), include_path=str(elsewhere)).identity() == before
    (elsewhere / "choice.yaml").write_text(CHOICE.replace("version: 3", "version: 4"))
    assert Benchmarks(tasks=("tiny_choice",), include_path=str(elsewhere)).identity() != before
    assert before["lm_eval"]
    json.dumps(before)


def test_a_package_s_folder_by_name(folder, tmp_path, monkeypatch, last_word_tokenizer):
    (tmp_path / "users_package").mkdir()
    (tmp_path / "users_package" / "__init__.py").touch()
    folder.rename(tmp_path / "users_package" / "tasks")
    monkeypatch.syspath_prepend(tmp_path)
    scores, _ = run("pkg:users_package.tasks", last_word_tokenizer, "tiny_choice")
    assert scores["tiny_choice"]["n"] == 3
    sys.modules.pop("users_package", None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"include_path": "no/such/folder"}, r"include_path: 'no/such/folder' is not allowed: there is no such folder"),
        ({"include_path": "pkg:no.such.package"}, r"include_path: .* there is no importable package 'no.such.package'"),
        ({"tasks": []}, r"tasks: "),
        ({"limit": 0}, r"limit: 0 is not allowed"),
        ({"num_fewshots": 5}, r"num_fewshots: unknown field .* did you mean 'num_fewshot'"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    node = {"_target_": "kto_bench.evaluation.benchmarks.suite.Benchmarks", "tasks": ["arc_easy"], **fields}
    with pytest.raises(ConfigError, match=r"evaluation.benchmarks\." + message):
        build(node, Benchmarks, "evaluation.benchmarks")


def test_configuration_imports_stay_light():
    import subprocess

    code = (
        "import sys, kto_bench.evaluation.benchmarks.suite, kto_bench.evaluation.generation.generate, "
        "kto_bench.evaluation.judges.judge, kto_bench.evaluation.judges.head_to_head, "
        "kto_bench.evaluation.generation.guards; "
        "print([name for name in ('torch', 'transformers', 'lm_eval', 'alpaca_eval', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
