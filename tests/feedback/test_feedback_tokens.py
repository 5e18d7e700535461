from __future__ import annotations

import numpy as np
import pytest
from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

from kto_bench.component import ConfigError
from kto_bench.feedback.templates import PLAIN, TURNS, apply_template_choice
from kto_bench.feedback.tokenising import tokenise
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, Demonstration, Feedback, FeedbackError, Paired

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|head|>' + m['role'] + '<|tail|>\n\n' + (m['content'] | trim) + "
    "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|tail|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS


def user(text):
    return ({"role": "user", "content": text},)


def spell(text):
    """Ids of printable ASCII, newline and space in the small tokenizer, without its merge."""
    return [{"\n": 198, " ": 220}.get(letter, ord(letter) - 33) for letter in text]


@pytest.fixture
def plain(make_tokenizer):
    return make_tokenizer("<s>", "</s>", template=PLAIN, bos_token="<s>", eos_token="</s>")


def test_golden_ids_of_plain_text(plain):
    encoder = Encoder(plain, 16, 16)
    assert encoder.prompt(user("Hi a")) == [257, 256, 220, 64]
    assert encoder.completion("!Hi") == [0, 256, 258]
    assert encoder.end_ids == (258,)
    assert encoder.decode(encoder.completion("!Hi")) == "!Hi"


def test_golden_ids_of_the_turn_format(make_tokenizer):
    encoder = Encoder(make_tokenizer("</s>", template=TURNS, eos_token="</s>"), 200, 16)
    assert encoder.prompt(user("Hi")) == [*spell("\n<|user|>\n"), 256, *spell("\n<|assistant|>\n")]
    talk = (*user("a"), {"role": "assistant", "content": "b"}, *user("c"))
    assert encoder.prompt(talk) == spell("\n<|user|>\na\n<|assistant|>\nb\n<|user|>\nc\n<|assistant|>\n")


def test_golden_ids_of_chatml(make_tokenizer):
    tokenizer = make_tokenizer("<|end|>", "<|im_start|>", "<|im_end|>", template=CHATML, eos_token="<|end|>")
    encoder = Encoder(tokenizer, 100, 16)
    assert encoder.prompt(user("a")) == [258, *spell("user\na"), 259, 198, 258, *spell("assistant\n")]
    assert encoder.completion("a") == [64, 259]
    assert encoder.end_ids == (259, 257)  # the end of a turn first; eos stops generation too


def test_template_that_writes_the_bos_does_not_double_it(make_tokenizer):
    special = ("<s>", "</s>", "<|head|>", "<|tail|>", "<|eot_id|>")
    encoder = Encoder(make_tokenizer(*special, template=LLAMA3, bos_token="<s>", eos_token="</s>"), 100, 16)
    ids = encoder.prompt(user("a"))
    assert ids[:2] == [257, 259]
    assert ids.count(257) == 1
    assert encoder.end_ids == (261, 258)


def test_template_that_ends_turns_with_eos(make_tokenizer):
    encoder = Encoder(make_tokenizer("</s>", template=ZEPHYR, eos_token="</s>"), 100, 16)
    assert encoder.end_ids == (257,)
    assert encoder.completion("a") == [64, 257]


def test_no_bos_and_no_pad(make_tokenizer):
    tokenizer = make_tokenizer("</s>", template=PLAIN, eos_token="</s>")
    assert tokenizer.pad_token is None
    assert Encoder(tokenizer, 4, 4).prompt(user("a")) == [64]


def test_bos_that_is_eos_too(make_tokenizer):
    both = make_tokenizer("<|endoftext|>", template=PLAIN, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    encoder = Encoder(both, 4, 4)
    assert encoder.prompt(user("a")) + encoder.completion("a") == [257, 64, 64, 257]


def test_nothing_merges_across_the_boundary(plain):
    encoder = Encoder(plain, 16, 16)
    assert encoder.prompt(user("H")) + encoder.completion("i") == [257, 39, 72, 258]


def test_control_tokens_spelled_in_text_stay_text(plain):
    encoder = Encoder(plain, 32, 32)
    assert encoder.prompt(user("a<s>Hi</s>")) == [257, 64, *spell("<s>"), 256, *spell("</s>")]
    assert encoder.prompts([user("<s>"), user("a")]).ids == [[257, *spell("<s>")], [257, 64]]
    assert encoder.completion("a</s>!") == [64, *spell("</s>"), 0, 258]


def test_long_prompt_keeps_its_end_and_as_much_as_fits(make_tokenizer):
    tokenizer = make_tokenizer("<s>", "</s>", template=TURNS, bos_token="<s>", eos_token="</s>")
    end = spell("\n<|assistant|>\n")
    encoder = Encoder(tokenizer, len(end) + 4, 16)
    cut = encoder.prompts([user("0123456789"), user("789")])
    assert cut.ids == [[257, *spell("789"), *end]] * 2 == [encoder.prompt(user("789"))] * 2
    assert cut.whole.tolist() == [len(end) + 1 + 10 + len("\n<|user|>\n"), len(end) + 1 + 3 + len("\n<|user|>\n")]


def test_long_completion_keeps_its_start_and_did_not_end(plain):
    encoder = Encoder(plain, 16, 3)
    assert encoder.completion("aa") == [64, 64, 258]
    assert encoder.completion("aab") == [64, 64, 65]
    cut = encoder.completions(["aa", "aab"])
    assert cut.whole.tolist() == [3, 4]
    assert cut.is_cut.tolist() == [False, True]


def test_completion_is_never_empty(plain):
    assert Encoder(plain, 16, 1).completion("") == [258]


def test_prompt_of_no_tokens_is_refused(make_tokenizer):
    encoder = Encoder(make_tokenizer("</s>", template=PLAIN, eos_token="</s>"), 4, 4)
    with pytest.raises(FeedbackError, match="no tokens"):
        encoder.prompt(user(""))


@pytest.mark.parametrize(
    ("special", "template", "names", "lengths", "message"),
    [
        (("<s>",), PLAIN, {"bos_token": "<s>"}, (8, 8), "eos_token"),
        (("</s>",), None, {"eos_token": "</s>"}, (8, 8), "chat template"),
        (("</s>",), "{{ messages[0]['content'] }}", {"eos_token": "</s>"}, (8, 8), "what the assistant says"),
        (("</s>",), PLAIN, {"eos_token": "</s>"}, (8, 0), "max_completion_tokens: 0"),
        (("</s>",), TURNS, {"eos_token": "</s>"}, (15, 8), "max_prompt_tokens: 15.*take 16"),
    ],
)
def test_tokenizers_and_lengths_that_cannot_work(make_tokenizer, special, template, names, lengths, message):
    with pytest.raises(ConfigError, match=message):
        Encoder(make_tokenizer(*special, template=template, **names), *lengths)


def test_template_that_refuses_a_conversation(make_tokenizer):
    encoder = Encoder(make_tokenizer("</s>", template=REFUSES_SYSTEM, eos_token="</s>"), 100, 8)
    with pytest.raises(FeedbackError, match=r"roles system, user: no system role"):
        encoder.prompt(({"role": "system", "content": "a"}, *user("b")))


def test_template_choices(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer("</s>")
    apply_template_choice(tokenizer, "own")
    assert tokenizer.chat_template == TURNS
    apply_template_choice(tokenizer, "plain")
    assert tokenizer.chat_template == PLAIN
    apply_template_choice(tokenizer, "own")
    assert tokenizer.chat_template == PLAIN
    (tmp_path / "own.jinja").write_text(CHATML)
    apply_template_choice(tokenizer, str(tmp_path / "own.jinja"))
    assert tokenizer.chat_template == CHATML
    with pytest.raises(ConfigError, match=r"chat_template: 'chatml' is not allowed: choose own, turns, plain or"):
        apply_template_choice(tokenizer, "chatml")


def test_tokenised_paired_feedback_shares_prompts(plain):
    rows = [Paired("p", user("a"), "b", "c"), Paired("q", user("Hi"), "d", "e"), Paired("r", user("a"), "f", "toolong")]
    told = []
    data = tokenise(Feedback("paired", rows), Encoder(plain, 8, 4), lambda done, total: told.append((done, total)))
    assert data.prompts == [[257, 64], [257, 256]]
    np.testing.assert_array_equal(data.prompt_of, [0, 0, 1, 1, 0, 0])
    assert data.completions[:5] == [[*spell(letter), 258] for letter in "bcdef"]
    assert data.completions[5] == spell("tool")
    assert data.ids == ["p", "p", "q", "q", "r", "r"]
    assert data.desirable is None
    assert data.truncated == {"prompt": 0, "completion": 1}
    assert told == [(3, 3)]


def test_tokenised_binary_feedback_and_demonstrations(plain):
    encoder = Encoder(plain, 8, 4)
    binary = tokenise(
        Feedback("binary", [Binary("x", user("a"), "b", True), Binary("y", user("a"), "c", False)]), encoder
    )
    np.testing.assert_array_equal(binary.desirable, [True, False])
    np.testing.assert_array_equal(binary.prompt_of, [0, 0])
    demonstrations = tokenise(Feedback("demonstrations", [Demonstration("x", user("a"), "b")]), encoder)
    assert demonstrations.desirable is None
    assert demonstrations.completions == [[65, 258]]


@pytest.fixture(params=["gpt-neox-20b", "llama-32k", "mistral-32k", "gpt2"])
def real_tokenizer(request, shared):
    folder = shared("tokenizers")
    if request.param == "gpt2":
        return GPT2Tokenizer(vocab=str(folder / "gpt2.vocab.json"), merges=str(folder / "gpt2.merges.txt"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    if request.param == "gpt-neox-20b":
        names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / f"{request.param}.tokenizer.json"), **names)


@pytest.mark.parametrize("choice", ["turns", "plain", ZEPHYR, CHATML])
def test_real_tokenizers_one_bos_and_one_end(real_tokenizer, choice, tmp_path):
    if choice in (ZEPHYR, CHATML):
        (tmp_path / "template.jinja").write_text(choice)
        choice = str(tmp_path / "template.jinja")
    apply_template_choice(real_tokenizer, choice)
    encoder = Encoder(real_tokenizer, 128, 64)
    bos, eos = real_tokenizer.bos_token_id, real_tokenizer.eos_token_id
    text = "A café — don’t\u2028stop"
    prompt, completion = encoder.prompt(user("Once upon a time")), encoder.completion(text)
    assert prompt[0] == bos
    assert prompt[1] != bos
    assert completion.count(encoder.end_ids[0]) == 1
    assert completion[-1] == encoder.end_ids[0] == eos
    assert encoder.decode(completion) == text
    assert None not in prompt + completion
