"""Rows as the sets are published, invented but for their schema: what ``datasets`` gives for a row of each."""

from __future__ import annotations

from typing import Any


def said(*texts: str) -> list[dict[str, str]]:
    """A conversation that the user begins."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def dialogue(*texts: str) -> str:
    """A conversation in HH-RLHF's notation."""
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {text}" for n, text in enumerate(texts))


def ultrafeedback(prompt: str, chosen: str, rejected: str, scores: tuple[float, float]) -> dict[str, Any]:
    """https://hf.co/datasets/HuggingFaceH4/ultrafeedback_binarized"""
    return {
        "prompt": prompt,
        "prompt_id": "0" * 64,
        "chosen": said(prompt, chosen),
        "rejected": said(prompt, rejected),
        "messages": said(prompt, chosen),
        "score_chosen": scores[0],
        "score_rejected": scores[1],
    }


def shp(post: str, ids: str, *, label: int = 1, ratio: float = 2.0, scores: tuple[int, int] = (9, 3)) -> dict[str, Any]:
    """https://hf.co/datasets/stanfordnlp/SHP; ``label`` 1: comment A is preferred"""
    return {
        "post_id": post,
        "domain": "askculinary_train",
        "upvote_ratio": 0.98,
        "history": f"Question {post}",
        "c_root_id_A": ids[0],
        "c_root_id_B": ids[1],
        "created_at_utc_A": 2,
        "created_at_utc_B": 1,
        "score_A": scores[0],
        "score_B": scores[1],
        "human_ref_A": f"comment {ids[0]}",
        "human_ref_B": f"comment {ids[1]}",
        "labels": label,
        "seconds_difference": 1.0,
        "score_ratio": ratio,
    }


def oasst(id_: str, parent: str | None, text: str, rank: int | None = None, **fields: Any) -> dict[str, Any]:
    """https://hf.co/datasets/OpenAssistant/oasst1; ids are letters, and those of assistants are capitals"""
    return {
        "message_id": id_,
        "parent_id": parent,
        "user_id": "u",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": text,
        "role": "assistant" if id_[0].isupper() else "prompter",
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": rank,
        "synthetic": False,
        "model_name": None,
        "message_tree_id": "a",
        "tree_state": "ready_for_export",
        **fields,
    }


def helpsteer2(prompt: str, response: str, helpfulness: int, correctness: int = 3) -> dict[str, Any]:
    """https://hf.co/datasets/nvidia/HelpSteer2"""
    return {
        "prompt": prompt,
        "response": response,
        "helpfulness": helpfulness,
        "correctness": correctness,
        "coherence": 4,
        "complexity": 2,
        "verbosity": 2,
    }


def helpsteer2_preference(prompt: str, strength: int, split: str = "train") -> dict[str, Any]:
    """The same, folder "preference"; ``strength`` below 0: the first response is preferred"""
    return {
        "split": split,
        "prompt": prompt,
        "response_1": "first",
        "response_2": "second",
        "preference_strength": strength,
        "preference_statement": "because",
        "preference_elaboration": "of this",
        "three_most_similar_preferences": [],
        "all_preferences_unprocessed": [],
    }


def feedbackqa(question: str, answer: str, *ratings: str) -> dict[str, Any]:
    """https://hf.co/datasets/McGill-NLP/feedbackQA"""
    reference = {"page_title": "t", "section_headers": ["h"], "section_content": answer, "selected_span": None}
    return {
        "question": question,
        "answer": f"h\n{answer}",
        "feedback": ["why"] * len(ratings),
        "rating": list(ratings),
        "passage": {"passage_id": 1, "source": "s", "uri": "u", "reference_type": "p", "reference": reference},
        "domain": "WHO",
    }


def gsm8k(question: str, **right: bool) -> dict[str, Any]:
    """https://github.com/openai/grade-school-math, example_model_solutions.jsonl"""
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    solutions = {
        model: {"model_name": model, "solution": f"by {model}", "is_correct": model in right} for model in models
    }
    return {"question": question, "ground_truth": "#### 2", **solutions}


def ultrachat(*texts: str) -> dict[str, Any]:
    """https://hf.co/datasets/HuggingFaceH4/ultrachat_200k"""
    return {"prompt": texts[0], "prompt_id": "0" * 64, "messages": said(*texts)}


def alpaca(instruction: str, output: str, given: str = "") -> dict[str, Any]:
    """https://hf.co/datasets/tatsu-lab/alpaca"""
    return {"instruction": instruction, "input": given, "output": output, "text": "Below is an instruction"}


def kto_mix(prompt: str, completion: str, label: bool) -> dict[str, Any]:
    """https://hf.co/datasets/trl-lib/kto-mix-14k"""
    return {"prompt": said(prompt), "completion": [{"role": "assistant", "content": completion}], "label": label}
