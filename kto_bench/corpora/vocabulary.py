"""The tokenizer of a text corpus: trained on it, or a file of the user's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kto_bench.component import ConfigError

END, PAD = "<|endoftext|>", "<|padding|>"
"""The special tokens of a trained tokenizer, called as Pythia's: END stands before and after every document."""
ENDS = (END, "</s>", "<|eos|>", "<eos>", "<|end_of_text|>")
BEGINS = ("<s>", "<|bos|>", "<bos>", "<|begin_of_text|>")
PADS = (PAD, "<|pad|>", "<pad>", "[PAD]")
"""How tokenizers call their special tokens; the first that a file has is taken."""


def train(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (Radford et al. 2019) of at most ``vocab_size`` tokens; the same documents give the same one.

    Every string survives ``decode(encode(text))``. A small corpus may have too few pairs for the whole vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in (END, PAD)],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _fast(tokenizer, bos_token=END, eos_token=END, pad_token=PAD)


def from_file(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a ``tokenizer.json`` of the library `tokenizers`, with its special tokens found by their names.

    Without a token that begins a text, the one that ends it stands for both; without one to pad with, the same.
    Raises ConfigError for a file that is no tokenizer, or has no token that ends a text.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare ones
        raise ConfigError(f"model.corpus.tokenizer_file: {path} is no tokenizer.json ({error})") from error
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    end = _first(ENDS, vocabulary)
    if end is None:
        raise ConfigError(
            f"model.corpus.tokenizer_file: {path} has no token that ends a text (looked for {', '.join(ENDS)}); add "
            "one with Tokenizer.add_special_tokens, or set model.corpus.tokenizer_file=null to train one on the text"
        )
    return _fast(
        tokenizer,
        bos_token=_first(BEGINS, vocabulary) or end,
        eos_token=end,
        pad_token=_first(PADS, vocabulary) or end,
    )


def _first(names: Iterable[str], vocabulary: Any) -> str | None:
    return next((name for name in names if name in vocabulary), None)


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, padding_side="left", **special
    )
