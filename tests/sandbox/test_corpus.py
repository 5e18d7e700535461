import numpy as np
import pytest

from kto_bench.sandbox.corpus import SandboxCorpus, word_ids
from kto_bench.sandbox.instructions import FAMILIES, read
from kto_bench.sandbox.language import spell
from kto_bench.sandbox.tokenizer import ASSISTANT, BOS, EOS, USER, build_tokenizer

TOKENS = 200_000
WORDS = {number: word for word, number in word_ids().items()}


@pytest.fixture(scope="module")
def stream():
    return SandboxCorpus().stream(TOKENS, seed=0)


def turns(stream):
    """(role, spaced text) of every turn, and of plain text after a reply as part of the reply."""
    found, role, words = [], None, []
    for word in map(WORDS.__getitem__, stream.tolist()):
        if word in (BOS, EOS, USER, ASSISTANT):
            found.append((role, " ".join(words)))
            role, words = word, []
        else:
            words.append(word)
    return found[1:]


def test_length_type_and_seed(stream):
    assert stream.shape == (TOKENS,)
    assert np.issubdtype(stream.dtype, np.integer)
    assert stream[0] == word_ids()[BOS]
    assert np.array_equal(SandboxCorpus().stream(1000, seed=0), stream[:1000])
    assert not np.array_equal(SandboxCorpus().stream(1000, seed=1), stream[:1000])


def test_no_held_out_core_is_ever_asked(stream):
    questions = [read(spell(text)) for role, text in turns(stream) if role == USER]
    assert len(questions) > 3000
    assert all(question and not question.held_out for question in questions[:-1])
    assert {question.family for question in questions[:-1]} == set(FAMILIES)


def test_plain_text_asks_no_question_of_the_sandbox(stream):
    plain = [text for role, text in turns(stream) if role in (BOS, ASSISTANT)]
    sentences = {
        sentence.strip() + f" {mark}" for text in plain for mark in ".?" for sentence in text.split(f" {mark}")
    }
    assert not [sentence for sentence in sentences if read(sentence)]


def test_shares_of_chat_and_of_ends(stream):
    kinds = turns(stream)
    plain_tokens = sum(len(text.split()) + 1 for role, text in kinds if role == BOS and text)
    assert plain_tokens / TOKENS == pytest.approx(0.42, abs=0.01)
    replies = sum(role == ASSISTANT for role, _ in kinds)
    assert (stream == word_ids()[EOS]).sum() / replies == pytest.approx(0.3, abs=0.02)
    assert (SandboxCorpus(chat_share=0).stream(5000, 0) != word_ids()[USER]).all()


def test_the_ids_are_those_of_the_tokenizer(stream):
    tokenizer = build_tokenizer()
    ids = stream[:2000].tolist()
    text = tokenizer.decode(ids)
    assert tokenizer(text.replace("|> ", "|>"), add_special_tokens=False)["input_ids"] == ids
