"""Token ids by hand: texts spelled out below, encoded by the ``tokenizers`` library alone.

python tests/feedback/golden_ids.py FOLDER_OF_TOKENIZERS > tests/feedback/golden_ids.json
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = {
    "gpt-neox-20b": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|padding|>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "llama-32k": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"},
    "mistral-32k": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"},
    "bpe-2k": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
}
CONVERSATION = (
    {"role": "user", "content": "Is a caf\u00e9 open\u2028late?"},
    {"role": "assistant", "content": "Some are."},
    {"role": "user", "content": "Which one is th"},
)
COMPLETION = "e one I don\u2019t know  \n"  # " th" and "e" would merge
RENDERED = {
    "turns": "\n<|user|>\nIs a caf\u00e9 open\u2028late?\n<|assistant|>\nSome are.\n<|user|>\n"
    "Which one is th\n<|assistant|>\n",
    "plain": "Is a caf\u00e9 open\u2028late?Some are.Which one is th",
}


@cache
def backend(folder: Path, name: str) -> Tokenizer:
    """The tokenizer ``name`` of the folder, with its special tokens."""
    if name == "gpt2":
        made = Tokenizer(models.BPE.from_file(str(folder / "gpt2.vocab.json"), str(folder / "gpt2.merges.txt")))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        made = Tokenizer.from_file(str(folder / f"{name}.tokenizer.json"))
    made.add_special_tokens(sorted(set(SPECIAL[name].values())))
    return made


def by_hand(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each tokenizer: the ids of both prompts without BOS, of the completion without its end, and of both tokens."""
    golden = {}
    for name, special in SPECIAL.items():
        tokenizer = backend(folder, name)
        texts = {**RENDERED, "completion": COMPLETION}
        ids = {key: tokenizer.encode(text, add_special_tokens=False).ids for key, text in texts.items()}
        golden[name] = {**ids, **{key: tokenizer.token_to_id(token) for key, token in special.items()}}
    return golden


if __name__ == "__main__":
    lines = [f"  {json.dumps(name)}: {json.dumps(ids)}" for name, ids in by_hand(Path(sys.argv[1])).items()]
    print("{\n" + ",\n".join(lines) + "\n}")
