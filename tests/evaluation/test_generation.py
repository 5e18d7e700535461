import dataclasses
import math

import pytest
import torch
from tiny_checkpoints import bigram_model, build_model

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation import generate as generation
from kto_bench.evaluation.generation.generate import Generation
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.evaluation.generation.transformers_backend import Transformers
from kto_bench.feedback.tokens import Encoder


def generate(model, *arguments, **options):
    """The rows of completions.jsonl."""
    return generation.generate(Transformers(model), *arguments, **options)[0]


def prompts_of(*contents: str) -> list[EvaluationPrompt]:
    return [
        EvaluationPrompt(f"p{index}", ({"role": "user", "content": text},), f"reference {index}")
        for index, text in enumerate(contents)
    ]


MIXED = prompts_of("a", "capital of france", "b c d e f g h a b", "italy", "the a b", "c", "d e f g", "h")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_do_not_depend_on_batching(model, encoder, temperature):
    settings = {"max_new_tokens": 10, "temperature": temperature, "top_p": 0.9}
    alone = [row for prompt in MIXED for row in generate(model, encoder, [prompt], Generation(**settings), seed=1)]
    for batch_size in (3, 8):
        together = generate(model, encoder, MIXED, Generation(**settings, batch_size=batch_size), seed=1)
        assert together == alone
    assert len({row["completion"] for row in alone}) > 2  # otherwise the comparison says nothing


@pytest.mark.parametrize("max_prompt_tokens", [40, 8])
def test_a_batch_equals_a_plain_greedy_loop(model, tokenizer, max_prompt_tokens):
    encoder = Encoder(tokenizer, max_prompt_tokens, 24)  # the second one cuts the longer prompts, as in training
    rows = generate(model, encoder, MIXED, Generation(max_new_tokens=6, temperature=0, batch_size=8), seed=0)
    for prompt, row in zip(MIXED, rows, strict=True):
        ids = encoder.prompt(prompt.prompt)
        out: list[int] = []
        with torch.no_grad():
            while len(out) < 6 and not set(out) & set(encoder.end_ids):
                out.append(int(model(torch.tensor([ids + out])).logits[0, -1].argmax()))
        ended = out[-1] in encoder.end_ids
        assert row["tokens"] == len(out) - ended
        assert row["ended"] is ended
        assert row["completion"] == encoder.tokenizer.decode(out[: row["tokens"]], skip_special_tokens=True)
    assert [row["prompt_id"] for row in rows if row.get("cut")] == (["p2"] if max_prompt_tokens == 8 else [])


def test_seed_and_prompt_id_choose_the_stream(encoder):
    model, settings = build_model("llama"), Generation(max_new_tokens=12, temperature=1.5, top_p=1.0)
    one, again, other = (generate(model, encoder, MIXED, settings, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    same_text = prompts_of("a", "a")
    first, second = generate(model, encoder, same_text, settings, seed=1)
    assert first["completion"] != second["completion"]


def test_global_random_state_is_neither_used_nor_changed(encoder):
    model, settings = build_model("llama"), Generation(max_new_tokens=8, temperature=1.0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = generate(model, encoder, MIXED, settings, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert generate(model, encoder, MIXED, settings, seed=1) == first


def test_sampling_has_the_model_s_distribution(tokenizer, encoder):
    """One step from known logits: 2 sqrt(32) / T against 0; T is chosen so that the likely word has probability 0.5."""
    model = bigram_model(tokenizer, {"<|assistant|>": "paris"})
    others = len(tokenizer) - 1
    temperature = 2 * math.sqrt(32) / math.log(others)
    prompts = [EvaluationPrompt(str(index), ({"role": "user", "content": "a"},)) for index in range(600)]
    settings = Generation(max_new_tokens=1, temperature=temperature, top_p=1.0, batch_size=200)
    rows = generate(model, encoder, prompts, settings, seed=0)
    assert sum(row["completion"] == "paris" for row in rows) / 600 == pytest.approx(0.5, abs=0.08)  # 4 standard errors
    nucleus = settings.model_copy(update={"top_p": 0.49})
    assert {row["completion"] for row in generate(model, encoder, prompts, nucleus, seed=0)} == {"paris"}


def test_stops_at_an_end_token_and_at_the_cap(tokenizer, encoder):
    follows = {"<|assistant|>": "paris", "paris": "is", "is": "the", "the": "<|end|>"}
    stops = generate(
        bigram_model(tokenizer, follows), encoder, MIXED[:2], Generation(temperature=0, max_new_tokens=9), 0
    )
    assert [(row["completion"], row["tokens"], row["ended"]) for row in stops] == [("paris is the", 3, True)] * 2
    loops = bigram_model(tokenizer, {"<|assistant|>": "a", "a": "b", "b": "a"})
    (capped,) = generate(loops, encoder, MIXED[:1], Generation(temperature=0, max_new_tokens=5), 0)
    assert (capped["completion"], capped["tokens"], capped["ended"]) == ("a b a b a", 5, False)
    ends_at_once = bigram_model(tokenizer, {"<|assistant|>": "</s>"})
    (empty,) = generate(ends_at_once, encoder, MIXED[:1], Generation(temperature=0, max_new_tokens=5), 0)
    assert (empty["completion"], empty["tokens"], empty["ended"]) == ("", 0, True)


def test_an_end_token_that_is_the_last_allowed_token_counts_as_ended(tokenizer, encoder):
    model = bigram_model(tokenizer, {"<|assistant|>": "paris", "paris": "</s>"})
    (row,) = generate(model, encoder, MIXED[:1], Generation(temperature=0, max_new_tokens=2), 0)
    assert (row["completion"], row["ended"]) == ("paris", True)


def test_decoding_settings_of_the_checkpoint_are_not_used(tokenizer, encoder):
    model = bigram_model(tokenizer, {"<|assistant|>": "a", "a": "a"})
    settings = Generation(temperature=0, max_new_tokens=6)
    plain = generate(model, encoder, MIXED[:1], settings, 0)
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.repetition_penalty = 50.0
    its_own = model.generation_config
    assert generate(model, encoder, MIXED[:1], settings, 0) == plain
    assert model.generation_config is its_own


def test_training_mode_is_restored_and_dropout_is_off(encoder):
    model = build_model("gpt_neox")
    model.train()
    settings = Generation(max_new_tokens=4, temperature=0)
    assert generate(model, encoder, MIXED, settings, 0) == generate(model, encoder, MIXED, settings, 0)
    assert model.training


def test_rows_carry_the_prompt_and_progress_is_told(encoder):
    told: list[tuple[int, int]] = []
    rows = generate(
        build_model("llama"), encoder, MIXED, Generation(max_new_tokens=2, batch_size=3), 0, lambda *at: told.append(at)
    )
    assert told == [(3, 8), (6, 8), (8, 8)]
    assert [row["prompt_id"] for row in rows] == [prompt.id for prompt in MIXED]
    assert [row["reference"] for row in rows] == [prompt.reference for prompt in MIXED]
    assert rows[1]["prompt"] == [{"role": "user", "content": "capital of france"}]
    assert set(rows[0]) == {"prompt_id", "prompt", "completion", "tokens", "ended", "reference", "reference_tokens"}


def test_refuses_repeated_ids_and_too_many_positions(encoder):
    with pytest.raises(EvaluationError, match="'p0'"):
        generate(build_model("llama"), encoder, [MIXED[0], MIXED[0]], Generation(max_new_tokens=2), 0)
    with pytest.raises(EvaluationError, match=r"max_new_tokens: 60 .* the\s+model has 64"):
        generate(build_model("llama"), encoder, MIXED, Generation(max_new_tokens=60), 0)


def test_refuses_a_doubled_bos(encoder, monkeypatch):
    encode = encoder.prompts

    def doubled(conversations):
        encoded = encode(conversations)
        return dataclasses.replace(encoded, ids=encoded.ids.extended([encoded.ids[0][0]]))

    monkeypatch.setattr(encoder, "prompts", doubled)
    with pytest.raises(EvaluationError, match="starts with two BOS tokens"):
        generate(build_model("llama"), encoder, MIXED[:1], Generation(max_new_tokens=2), 0)


def test_next_turns_are_asked_after_the_model_s_own_answers(tokenizer, encoder):
    """The model answers each word of the end of a question with the next of a chain, so answers show what was asked."""
    follows = {"<|assistant|>": "paris", "paris": "is", "is": "the", "the": "<|end|>"}
    model = Transformers(bigram_model(tokenizer, follows))
    plain, both = MIXED[1], EvaluationPrompt("two", MIXED[0].prompt, next_turns=("italy", "rome of"))
    settings = Generation(temperature=0, max_new_tokens=9)
    told: list[tuple[int, int]] = []
    (one, several), answers = generation.generate(
        model, encoder, [plain, both], settings, 0, lambda *at: told.append(at)
    )
    assert "turns" not in one
    assert [turn["user"] for turn in several["turns"]] == [None, "italy", "rome of"]
    assert [turn["completion"] for turn in several["turns"]] == ["paris is the"] * 3
    assert {key: several["turns"][0][key] for key in ("completion", "tokens", "ended")} == {
        key: several[key] for key in ("completion", "tokens", "ended")
    }
    said = {"role": "assistant", "content": "paris is the"}
    conversation = [*MIXED[0].prompt, said, {"role": "user", "content": "italy"}]
    assert [answer.prompt for answer in answers if answer.prompt_id == "two"] == [
        encoder.prompt(MIXED[0].prompt),
        encoder.prompt(tuple(conversation)),
        encoder.prompt((*conversation, said, {"role": "user", "content": "rome of"})),
    ]
    assert told == [(2, 4), (3, 4), (4, 4)]


def test_turns_draw_from_streams_of_their_own(encoder, monkeypatch):
    prompt = EvaluationPrompt("p0", MIXED[0].prompt, next_turns=("a", "a"))
    settings = Generation(max_new_tokens=5, temperature=5.0, top_p=1.0)
    drawn, complete = [], Transformers.complete

    def told(self, prompts, end_ids, chosen, streams):
        drawn.extend(streams)
        return complete(self, prompts, end_ids, chosen, streams)

    monkeypatch.setattr(Transformers, "complete", told)
    (row,) = generate(build_model("llama"), encoder, [prompt], settings, 1)
    assert len(set(drawn)) == 3
    (alone,) = generate(build_model("llama"), encoder, MIXED[:1], settings, 1)
    assert row["completion"] == alone["completion"], "what comes later does not matter"


class Stopping(Transformers):
    """Counts the prompts of every batch, and is stopped in the one after ``batches``."""

    def __init__(self, model, batches=1000):
        super().__init__(model)
        self.batches, self.asked = batches, []

    def complete(self, prompts, *arguments):
        if len(self.asked) == self.batches:
            raise KeyboardInterrupt
        self.asked.append(len(prompts))
        return super().complete(prompts, *arguments)


def test_what_was_generated_before_a_kill_is_not_generated_again(encoder, tmp_path):
    prompts = [*MIXED, EvaluationPrompt("two", MIXED[0].prompt, next_turns=("italy",))]
    settings, saved = Generation(max_new_tokens=6, temperature=1.0, batch_size=3), tmp_path / "saved" / "tokens.jsonl"
    whole = generation.generate(Transformers(build_model("llama")), encoder, prompts, settings, 1)
    with pytest.raises(KeyboardInterrupt):
        generation.generate(Stopping(build_model("llama"), 2), encoder, prompts, settings, 1, None, saved)
    with saved.open("a") as file:
        file.write('{"prompt_id": "p0", "tur')  # killed in the middle of a line
    resumed = Stopping(build_model("llama"))
    told: list[tuple[int, int]] = []
    again = generation.generate(resumed, encoder, prompts, settings, 1, lambda *at: told.append(at), saved)
    assert again == whole
    assert resumed.asked == [3, 1]
    assert told[0] == (3, 10), "progress counts what was there"
    finished = Stopping(build_model("llama"))
    assert generation.generate(finished, encoder, prompts, settings, 1, None, saved) == whole
    assert finished.asked == []


def test_a_saved_answer_to_other_tokens_is_not_used(encoder, tmp_path):
    settings, saved = Generation(max_new_tokens=3, temperature=0), tmp_path / "tokens.jsonl"
    generate(build_model("llama"), encoder, prompts_of("a"), settings, 0, None, saved)
    other = prompts_of("capital of france")
    backend = Stopping(build_model("llama"))
    rows, _ = generation.generate(backend, encoder, other, settings, 0, None, saved)
    assert backend.asked == [1]
    assert rows == generate(build_model("llama"), encoder, other, settings, 0)
