"""Log-probabilities of completions against the model's full logits."""

from __future__ import annotations

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model

from kto_bench.training.logprobs import completion_log_probs

PROMPTS = [[1, 5, 9, 7], [1, 6], [1, 30, 31, 32, 33, 34, 35]]
COMPLETIONS = [[10, 11, 2], [12, 13, 14, 15, 16, 2], [2]]


def one_by_one(model: torch.nn.Module) -> list[torch.Tensor]:
    """log pi(y_t | x, y_<t) from the logits of each unpadded sequence."""
    rows = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        log_probs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        start = len(prompt) - 1
        rows.append(torch.stack([log_probs[start + i, token] for i, token in enumerate(completion)]))
    return rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_to_the_logits_of_each_sequence_alone(architecture: str) -> None:
    model = tiny_model(architecture)
    with torch.no_grad():
        log_probs, mask = completion_log_probs(model, PROMPTS, COMPLETIONS, pad_id=0)
        expected = one_by_one(model)
    assert mask.sum(-1).tolist() == [3, 6, 1]
    for row, values in enumerate(expected):
        torch.testing.assert_close(log_probs[row, : len(values)], values, atol=1e-5, rtol=1e-5)
        assert (log_probs[row, len(values) :] == 0).all()


def test_the_same_in_any_batch() -> None:
    model = tiny_model()
    with torch.no_grad():
        together, mask = completion_log_probs(model, PROMPTS, COMPLETIONS, pad_id=0)
        for row in range(3):
            alone, _ = completion_log_probs(model, PROMPTS[row : row + 1], COMPLETIONS[row : row + 1], pad_id=0)
            torch.testing.assert_close(together[row][mask[row]], alone[0], atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_the_full_logits() -> None:
    def gradient(loss: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    ours, full = tiny_model(), tiny_model()
    got = gradient(completion_log_probs(ours, PROMPTS, COMPLETIONS, pad_id=0)[0].sum(), ours)
    expected = gradient(torch.stack([row.sum() for row in one_by_one(full)]).sum(), full)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
