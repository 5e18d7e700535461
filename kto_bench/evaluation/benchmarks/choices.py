"""What a policy makes of each choice of a multiple-choice task, for whether its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHOICES = "choices.jsonl.gz"
"""The file of the stage and of a record."""
DIGITS = 4
"""Decimals of a log-probability: a ten-thousandth of a nat is a ten-thousandth of a probability at most."""


def choice_rows(name: str, task: Any, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """{"task", "doc_id", "right", "log_probs", "characters"} for each document of lm-eval's multiple-choice ``task``.

    ``log_probs`` are log pi(choice | question) in nats, summed over tokens, and ``characters`` the lengths that lm-eval
    divides them by for ``acc_norm``, both by choice; ``right`` is the index of the right one. Tasks that score choices
    in a way of their own (TruthfulQA's mc2) and documents with several right choices have no rows.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
        return []
    rows = []
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        choices = task.doc_to_choice(sample["doc"])
        right = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
        if isinstance(right, str) and right in choices:
            right = choices.index(right)
        if not isinstance(right, int) or not 0 <= right < len(choices):
            continue
        # What follows the choices, if anything, are unconditional log-likelihoods (acc_mutual_info).
        log_probs = [round(float(answer[0]), DIGITS) for answer in sample["filtered_resps"][: len(choices)]]
        lengths = [len(choice) for choice in choices]
        rows.append(
            {
                "task": name,
                "doc_id": sample["doc_id"],
                "right": right,
                "log_probs": log_probs,
                "characters": lengths,
            }
        )
    return rows
