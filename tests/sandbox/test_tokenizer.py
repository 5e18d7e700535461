import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kto_bench.sandbox.instructions import FAMILIES, draw
from kto_bench.sandbox.language import WORDS, spell
from kto_bench.sandbox.responses import PROFILES, respond
from kto_bench.sandbox.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
CHAT = [
    {"role": "user", "content": "what colour is the cat?"},
    {"role": "assistant", "content": "the cat is red."},
]


def encode(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from([*WORDS, " ", "\n", "<", "0x41>", "▁", "é"])).map("".join)))
@example("")
@example("  the  cat ")
@example("a\r\n\tb\n")
@example("<0x41><0xE2><unk><|eos")
@example("▁ \u2581the \x00\ufffd")
@example("👩‍👩‍👧 naïve İ")
def test_any_text_survives(text):
    assert TOKENIZER.decode(encode(text)) == text


def test_each_word_of_a_response_is_one_token():
    rng = random.Random(0)
    for _ in range(300):
        instruction = draw(rng, rng.choice(FAMILIES), held_out=False)
        for spaced in (instruction.wording(rng), respond(rng, instruction, dict.fromkeys(PROFILES, 1.0))):
            assert len(encode(spell(spaced))) == len(spaced.split())


def test_vocabulary_is_small_and_holds_all_bytes():
    vocabulary = TOKENIZER.get_vocab()
    assert len(TOKENIZER) == len(vocabulary) < 500
    assert {f"<0x{byte:02X}>" for byte in range(256)} <= set(vocabulary)


def test_chat_template():
    assert TOKENIZER.apply_chat_template(CHAT, tokenize=False) == (
        "<|bos|><|user|>what colour is the cat?<|assistant|>the cat is red.<|eos|>"
    )
    asked = TOKENIZER.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|bos|><|user|>what colour is the cat?<|assistant|>"
    whole = TOKENIZER.apply_chat_template(CHAT, return_dict=False)
    prompt = TOKENIZER.apply_chat_template(CHAT[:1], return_dict=False, add_generation_prompt=True)
    assert whole == prompt + encode(CHAT[1]["content"]) + [TOKENIZER.eos_token_id]
    with pytest.raises(Exception, match="user and assistant, not system"):
        TOKENIZER.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["the cat is red.", " naïve\n<0x41> "]
    assert [loaded(text)["input_ids"] for text in texts] == [TOKENIZER(text)["input_ids"] for text in texts]
    assert loaded.decode(loaded(texts[1])["input_ids"]) == texts[1]
    assert loaded.apply_chat_template(CHAT, tokenize=False) == TOKENIZER.apply_chat_template(CHAT, tokenize=False)
    ids = ("pad_token_id", "bos_token_id", "eos_token_id")
    assert [getattr(loaded, one) for one in ids] == [getattr(TOKENIZER, one) for one in ids] == [0, 1, 2]
