"""The divergence along generated completions, against sums over the vocabulary written out."""

import math

import pytest
import torch
from tiny_checkpoints import build_model

from kto_bench.evaluation.generation import divergence
from kto_bench.evaluation.generation.divergence import divergences

ANSWERS = [
    {"prompt_id": "a", "turn": 0, "prompt": [0, 2, 7, 3], "completion": [8, 9, 4]},
    {"prompt_id": "b", "turn": 0, "prompt": [0, 2, 7, 7, 7, 7, 3], "completion": [10]},
    {"prompt_id": "a", "turn": 1, "prompt": [0, 2, 7, 3, 8, 9, 4, 2, 6, 3], "completion": [11, 12]},
    {"prompt_id": "c", "turn": 0, "prompt": [0, 5], "completion": []},
]


def by_hand(policy, reference, answer):
    ids = answer["prompt"] + answer["completion"]
    total = 0.0
    with torch.no_grad():
        ours, its = (model(torch.tensor([ids])).logits[0].double().log_softmax(-1) for model in (policy, reference))
    for position in range(len(answer["prompt"]) - 1, len(ids) - 1):
        p, q = ours[position].tolist(), its[position].tolist()
        total += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    return total


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("limits", [(33_554_432, 16_384), (40, 1)])
def test_it_is_the_sum_over_tokens_of_the_exact_divergence(family, limits, monkeypatch):
    """However it is cut into passes and chunks of logits."""
    monkeypatch.setattr(divergence, "MAX_LOGITS", limits[0])
    monkeypatch.setattr(divergence, "TOKENS_PER_PASS", limits[1])
    policy, reference = build_model(family, 1), build_model(family, 2)
    told: list[tuple[int, int]] = []
    rows = divergences(policy, reference, ANSWERS, lambda *at: told.append(at))
    expected = [by_hand(policy, reference, answer) for answer in ANSWERS]
    assert [row["prompt_id"] for row in rows] == ["a", "b", "c"]
    assert [row["kl"] for row in rows] == pytest.approx([expected[0] + expected[2], expected[1], 0.0], rel=1e-4)
    assert [row["tokens"] for row in rows] == [5, 1, 0]
    assert min(expected[:3]) > 0.01
    assert told[-1] == (4, 4)


def test_a_policy_does_not_diverge_from_itself():
    model = build_model("llama", 1)
    assert [row["kl"] for row in divergences(model, build_model("llama", 1), ANSWERS)] == [0.0, 0.0, 0.0]


def test_tokens_that_the_reference_lacks_are_left_out():
    reference, policy = build_model("llama", 1), build_model("llama", 1)
    size = reference.get_input_embeddings().num_embeddings
    policy.resize_token_embeddings(size + 1, mean_resizing=False)
    with torch.no_grad():
        policy.lm_head.weight[size] = 0.0
    prompt = {"prompt_id": "a", "turn": 0, "prompt": [0, 2, 7, 3], "completion": [8, size, 9]}
    (row,) = divergences(policy, reference, [prompt])
    assert row["tokens"] == 1, "a completion ends at a token that the reference does not have"
    assert row["kl"] == pytest.approx(0.0, abs=1e-9)
    prompted = {"prompt_id": "a", "turn": 0, "prompt": [0, 2, 7, 3, size], "completion": [8]}
    assert divergences(policy, reference, [prompted])[0]["kl"] > 0.0


def test_a_control_token_in_an_unused_row_of_a_padded_vocabulary_is_left_out_as_well():
    """Pythia's embeddings have more rows than its tokenizer has tokens: what the start has there means nothing."""
    reference, policy = build_model("gpt_neox", 1), build_model("gpt_neox", 1)
    control = reference.get_input_embeddings().num_embeddings - 1
    policy.config.control_token_ids = [control]
    with torch.no_grad():  # the policy behaves without the token as its start does
        for model in (policy, reference):
            model.get_output_embeddings().weight[control] = 0.0
        policy.get_output_embeddings().weight[control] = 5.0
    completed = {"prompt_id": "a", "turn": 0, "prompt": [0, 2, 7, 3], "completion": [8, control, 9]}
    (row,) = divergences(policy, reference, [completed])
    assert (row["tokens"], row["kl"]) == (1, pytest.approx(0.0, abs=1e-9))
    prompted = {"prompt_id": "a", "turn": 0, "prompt": [0, 2, 7, 3, control], "completion": [8, 9]}
    (row,) = divergences(policy, reference, [prompted])
    expected = _without_token(policy, prompted, reference, {**prompted, "prompt": [0, 2, 7, 3]}, control)
    assert row["kl"] == pytest.approx(expected, rel=1e-4)
    assert row["kl"] > 0.01
    reference.config.control_token_ids = [control]  # the start was trained with it: it counts like any other
    assert divergences(policy, reference, [completed])[0]["tokens"] == 3


def _without_token(policy, ours, reference, its, token):
    """The divergence over all tokens but ``token``, each model after its own prompt."""
    logs = []
    for model, answer in ((policy, ours), (reference, its)):
        with torch.no_grad():
            logits = model(torch.tensor([answer["prompt"] + answer["completion"]])).logits[0].double()
        logits[:, token] = -1e9
        start = len(answer["prompt"]) - 1
        logs.append(logits[start : start + len(answer["completion"])].log_softmax(-1))
    return (logs[0].exp() * (logs[0] - logs[1])).sum().item()


def test_it_estimates_the_divergence_of_whole_completions():
    """Over completions of two tokens drawn from the policy, the mean is the KL of the two distributions of pairs."""
    policy, reference = build_model("llama", 1), build_model("llama", 2)
    prompt = [0, 2, 7, 3]
    first, second = [], []
    with torch.no_grad():
        for model in (policy, reference):
            first.append(model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1))
            rows = torch.tensor([[*prompt, token] for token in range(len(first[0]))])
            second.append(model(rows).logits[:, -1].double().log_softmax(-1))
    joint = [a[:, None] + b for a, b in zip(first, second, strict=True)]
    expected = (joint[0].exp() * (joint[0] - joint[1])).sum().item()
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(joint[0].exp().flatten(), 4000, replacement=True, generator=generator)
    size = len(first[0])
    answers = [
        {"prompt_id": str(i), "turn": 0, "prompt": prompt, "completion": [int(d) // size, int(d) % size]}
        for i, d in enumerate(draws)
    ]
    values = torch.tensor([row["kl"] for row in divergences(policy, reference, answers)])
    error = values.std() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(expected, abs=4 * error.item())
