"""Golden ids of five published tokenizers, with and without BOS, PAD and template, through every door: training's
tokens on disk, the encoder that generation asks, and one text at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_ids
import numpy as np
import pytest
from golden_ids import COMPLETION, CONVERSATION, RENDERED, SPECIAL
from transformers import PreTrainedTokenizerFast

from kto_bench.feedback.templates import apply_template_choice
from kto_bench.feedback.token_lists import TokenLists
from kto_bench.feedback.tokenising import tokenise_file
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, FeedbackError, write_rows

GOLDEN = json.loads(Path(__file__).with_name("golden_ids.json").read_text(encoding="utf-8"))
MakeEncoder = Callable[..., Encoder]


@pytest.fixture
def make(shared: Callable[[str], Path]) -> MakeEncoder:
    """The encoder of a published tokenizer; ``left_out`` are special tokens that it is not told of."""

    def encoder(name: str, template: str, *left_out: str, limits: tuple[int, int] = (512, 512)) -> Encoder:
        special = {key: token for key, token in SPECIAL[name].items() if key not in left_out}
        backend = golden_ids.backend(shared("tokenizers"), name)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        apply_template_choice(tokenizer, template)
        return Encoder(tokenizer, *limits)

    return encoder


def test_the_file_is_what_the_script_writes(shared: Callable[[str], Path]) -> None:
    assert golden_ids.by_hand(shared("tokenizers")) == GOLDEN


@pytest.mark.parametrize("left_out", [(), ("bos_token",), ("pad_token",), ("bos_token", "pad_token")])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ids(make: MakeEncoder, tmp_path: Path, name: str, left_out: tuple[str, ...]) -> None:
    golden = GOLDEN[name]
    bos = [] if "bos_token" in left_out else [golden["bos_token"]]
    completion = [*golden["completion"], golden["eos_token"]]
    rows = [Binary(f"r{i}", CONVERSATION, text, True) for i, text in enumerate((COMPLETION, "Other", COMPLETION))]
    write_rows(tmp_path / "rows.jsonl", rows)
    tokenizer = make(name, "plain", *left_out).tokenizer
    for template in RENDERED:
        apply_template_choice(tokenizer, template)
        encoder, prompt = Encoder(tokenizer, 512, 512), bos + golden[template]
        assert encoder.prompt(CONVERSATION) == prompt, "what generation asks"
        assert encoder.completion(COMPLETION) == completion
        data = tokenise_file(tmp_path / "rows.jsonl", "binary", encoder, tmp_path, lambda done, total: None)
        assert data.prompts == [prompt], "what training reads, once for the three of them"
        assert data.prompt_of.tolist() == [0, 0, 0]
        assert data.completions[::2] == [completion, completion]


@pytest.mark.parametrize("name", GOLDEN)
def test_exactly_one_bos_one_end_and_the_text_in_between(make: MakeEncoder, name: str) -> None:
    encoder = make(name, "turns")
    prompt, completion = encoder.prompt(CONVERSATION), encoder.completion(COMPLETION)
    ends = {GOLDEN[name]["bos_token"], GOLDEN[name]["eos_token"]}
    assert [position for position, id_ in enumerate(prompt) if id_ in ends] == [0]
    assert [position for position, id_ in enumerate(completion) if id_ in ends] == [len(completion) - 1]
    assert encoder.decode(completion) == COMPLETION
    assert encoder.decode(prompt).strip() == RENDERED["turns"].strip()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_boundary_is_where_the_texts_meet(make: MakeEncoder, name: str) -> None:
    """One text would merge over it, which generation could never continue from."""
    encoder = make(name, "plain")
    prompt, completion = encoder.prompt(CONVERSATION), encoder.completion(COMPLETION)[:-1]
    together = encoder.completion(RENDERED["plain"] + COMPLETION)[:-1]
    assert prompt[1:] + completion != together
    assert encoder.completions([COMPLETION, "x" + COMPLETION]).ids[0][:-1] == completion


@pytest.mark.parametrize("name", GOLDEN)
def test_truncation_keeps_the_end_of_the_prompt_and_some_of_the_completion(make: MakeEncoder, name: str) -> None:
    whole = make(name, "turns").prompt(CONVERSATION)
    smallest = len(whole) - 3
    encoder = make(name, "turns", limits=(smallest, 1))
    assert encoder.prompt(CONVERSATION) == [whole[0], *whole[4:]]
    assert encoder.completion(COMPLETION) == GOLDEN[name]["completion"][:1]
    assert encoder.completion("") == [GOLDEN[name]["eos_token"]]
    cut = encoder.prompts([CONVERSATION])
    assert (cut.whole.tolist(), cut.is_cut.tolist()) == ([len(whole)], [True])


@pytest.mark.parametrize("name", GOLDEN)
def test_control_tokens_in_the_text_are_text_also_where_tokens_begin_with_spaces(make: MakeEncoder, name: str) -> None:
    """As text, beside what the template writes: the ids of the same characters where they mean nothing."""
    encoder = make(name, "plain")
    spelled = f"say {SPECIAL[name]['eos_token']} now"
    (ids,) = encoder.prompts([({"role": "user", "content": spelled},)]).ids
    assert GOLDEN[name]["eos_token"] not in ids[1:]
    assert ids[1:] == encoder.completion(spelled)[:-1]
    assert encoder.decode(ids) == spelled


def test_private_use_characters_that_look_like_our_marks_are_text(make: MakeEncoder) -> None:
    encoder = make("bpe-2k", "plain")
    for text in ("\ue0007\ue001", "\ue000999\ue001 a", "\ue000", "a\ue001b", "<eos>\ue0000\ue001"):
        assert encoder.decode(encoder.prompt(({"role": "user", "content": text},))) == text


def test_a_template_that_refuses_a_row_names_it(make: MakeEncoder, tmp_path: Path) -> None:
    encoder = make("bpe-2k", "turns")
    encoder.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    system = ({"role": "system", "content": "a"}, {"role": "user", "content": "b"})
    rows = [Binary("ok", CONVERSATION, "c", True), Binary("file:7", system, "c", True)]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(FeedbackError, match=r"row file:7: .*roles system, user: no system role"):
        tokenise_file(tmp_path / "rows.jsonl", "binary", encoder, tmp_path, lambda done, total: None)


def test_many_processes_and_one_leave_the_same_files(make: MakeEncoder, tmp_path: Path) -> None:
    rows = [
        Binary(
            f"r{i}", ({"role": "user", "content": f"{i % 700} why " * (i % 5 + 1)},), f"{i} so </s>", i % 3 == 0, "a"
        )
        for i in range(1600)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    found: dict[int, Any] = {}
    for workers in (1, 2):
        told: list[tuple[int, int]] = []
        (out := tmp_path / str(workers)).mkdir()
        data = tokenise_file(
            tmp_path / "rows.jsonl", "binary", make("bpe-2k", "turns"), out,
            lambda done, total, told=told: told.append((done, total)), workers,
        )  # fmt: skip
        assert told[-1] == (1600, 1600)
        assert len(told) == 4
        assert len(data.prompts) == 700
        found[workers] = [(out / name).read_bytes() for name in ("prompts.arrow", "completions.arrow")]
    assert found[1] == found[2]


def test_an_error_in_a_process_comes_through(make: MakeEncoder, tmp_path: Path) -> None:
    rows = [Binary(f"r{i}", ({"role": "user", "content": "" if i == 1300 else "a"},), "b", True) for i in range(1600)]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(FeedbackError, match="row r1300: a prompt has no tokens"):
        tokenise_file(
            tmp_path / "rows.jsonl", "binary", make("bpe-2k", "plain", "bos_token"), tmp_path, lambda a, b: None, 2
        )


def test_views_of_token_lists() -> None:
    lists = TokenLists.of([[1, 2, 3], [], [4], [5, 6]])
    assert list(lists) == [[1, 2, 3], [], [4], [5, 6]]
    taken = lists.take(np.array([3, 0, 3]))
    assert taken == [[5, 6], [1, 2, 3], [5, 6]]
    assert taken.joined(lists) == [*taken, *lists]
    joined = taken.joined(lists)
    assert joined.first(np.minimum(joined.lengths, 1)) == [[5], [1], [5], [1], [], [4], [5]]
    assert joined.last(np.minimum(joined.lengths, 2)) == [[5, 6], [2, 3], [5, 6], [2, 3], [], [4], [5, 6]]
    assert joined.without((5, 3)) == [[6], [1, 2], [6], [1, 2], [], [4], [6]]
    assert joined.without_leading(5) == [[6], [1, 2, 3], [6], [1, 2, 3], [], [4], [6]]
    ended = np.array([True, False, True, True])
    assert lists.extended((9, 8), (7,), ended) == [[9, 8, 1, 2, 3, 7], [9, 8], [9, 8, 4, 7], [9, 8, 5, 6, 7]]
