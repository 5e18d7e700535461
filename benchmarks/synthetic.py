"""The synthetic long-tailed set and the checkpoint: made by the script, the same for the same seed.

Lengths in words are log-normal, with medians of 37 (prompts) and 60 (completions) and a tail that is cut at 300. The
spread (a standard deviation of 0.8 in log words) makes batches of 16 that are padded to their longest sequence hold
2.3 positions per token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from work import CHECKPOINT, COLUMNS, ROWS, LossName

PROMPT_MEDIAN, COMPLETION_MEDIAN, SPREAD, LONGEST = 37, 60, 0.8, 300
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A model's shape: its configuration in transformers, with random weights."""

    model_type: str
    vocabulary: int
    fields: dict[str, Any]


SHAPES = {
    "tiny": Shape(
        "llama",
        512,
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "small": Shape(
        "llama",
        8192,
        {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8},
    ),
    "pythia_1_4b": Shape(
        "gpt_neox",
        50_304,
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "rotary_pct": 0.25,
        },
    ),
    "llama3_8b": Shape(
        "llama",
        128_256,
        {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
}


def word_tokenizer(vocabulary: int) -> Any:
    """A tokenizer in which each of the words w0, w1, ... is one token; ``vocabulary`` counts the special ones too."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{number}" for number in range(vocabulary - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    return fast


def lengths(count: int, median: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) log-normal lengths in words, 1 to 300."""
    return np.clip(np.rint(np.exp(rng.normal(np.log(median), SPREAD, count))), 1, LONGEST).astype(np.int64)


def make_rows(loss: LossName, completions: int, vocabulary: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the feedback that ``loss`` learns from, ``completions`` completions in all, each word drawn uniformly.

    Binary rows are desirable and undesirable in turn; a pair shares its prompt.
    """
    rng = np.random.default_rng(seed)
    words = vocabulary - len(SPECIAL)

    def text(length: int) -> str:
        return " ".join(f"w{word}" for word in rng.integers(words, size=length))

    sides = COLUMNS[loss]
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(lengths(completions // len(sides), PROMPT_MEDIAN, rng)):
        row: dict[str, Any] = {"id": str(number), "prompt": [{"role": "user", "content": text(prompt)}]}
        row |= {
            side: text(length) for side, length in zip(sides, lengths(len(sides), COMPLETION_MEDIAN, rng), strict=True)
        }
        if loss == "kto":
            row["label"] = number % 2 == 0
        rows.append(row)
    return rows


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``rows.jsonl``."""
    (folder / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_checkpoint(
    folder: Path, shape: Shape, seed: int, *, dtype: str = "float32", vocabulary: int | None = None
) -> None:
    """Save a randomly initialised model of ``shape`` and its tokenizer to ``folder/checkpoint``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = word_tokenizer(vocabulary or shape.vocabulary)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        shape.model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape.fields,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder / CHECKPOINT)
    tokenizer.save_pretrained(folder / CHECKPOINT)
    (folder / CHECKPOINT / "checkpoint.json").write_text(json.dumps({"dtype": dtype}), encoding="utf-8")
