"""A corpus of plain text files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator
from transformers import PreTrainedTokenizerFast

from kto_bench.corpora.documents import documents, text_files
from kto_bench.corpora.vocabulary import from_file, train
from kto_bench.feedback.sources.content import digests_of
from kto_bench.feedback.templates import apply_template_choice, check_template_choice
from kto_bench.models import Corpus

BATCH = 256
"""Documents that are encoded in one call of the tokenizer."""


class TextCorpus(Corpus):
    """Documents of text files in an order drawn from the seed, an end token between any two.

    Where the tokenizer has a token that begins a text, each document starts with it. Every pass goes through all
    documents, in an order of its own.
    """

    name: str = "text"
    paths: tuple[Path, ...] = Field(
        description="text files (.txt, plain or with .gz or .xz), and folders of them; UTF-8"
    )
    blank_lines: int | None = Field(
        1, ge=1, description="so many blank lines in a row end a document; null: only the file's end does"
    )
    tokenizer_file: Path | None = Field(
        None, description="a tokenizer.json; null: a byte-level BPE is trained on the text"
    )
    vocab_size: int = Field(
        4096, ge=258, description="tokens of the trained tokenizer: 2 special ones, 256 bytes, and merges"
    )
    chat_template: str = "turns"
    most_passes: float | None = Field(
        4.0, gt=0, description="a model trains on the text so often at most; null: as often as its tokens ask for"
    )

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_several(cls, paths: Any) -> Any:
        return (paths,) if isinstance(paths, str | Path) else paths

    @field_validator("paths")
    @classmethod
    def _there(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        text_files(paths)
        return paths

    @field_validator("tokenizer_file")
    @classmethod
    def _a_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.expanduser().is_file():
            raise ValueError("there is no such file; give a tokenizer.json, or null to train one on the text")
        return path

    @field_validator("chat_template")
    @classmethod
    def _known_template(cls, choice: str) -> str:
        return check_template_choice(choice)

    def identity(self) -> dict[str, Any]:
        """The content of the files in their order, wherever they lie, that of tokenizer and template, and the rest."""
        identity = super().identity()
        identity["paths"] = [digest for _, digest in digests_of(text_files(self.paths))]
        if self.tokenizer_file is not None:
            identity["tokenizer_file"] = digests_of([self.tokenizer_file.expanduser()])[0][1]
            del identity["vocab_size"]  # is the file's
        if Path(self.chat_template).is_file():
            identity["chat_template"] = Path(self.chat_template).read_text(encoding="utf-8")
        return identity

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The file's, or one trained on all of the text; with the chat template."""
        return self._tokenizer

    def most_tokens(self) -> int | None:
        """``most_passes`` over the encoded text."""
        return None if self.most_passes is None else int(self.most_passes * len(self._encoded[0]))

    def stream(self, tokens: int, seed: int) -> np.ndarray:
        """(tokens,) int32 token ids: whole documents but for the last, in an order drawn from ``seed``."""
        ids, ends = self._encoded
        rng = np.random.default_rng(seed)
        stream = np.empty(tokens, dtype=np.int32)
        filled = 0
        while True:
            for document in rng.permutation(len(ends)):
                piece = ids[ends[document - 1] if document else 0 : ends[document]][: tokens - filled]
                stream[filled : filled + len(piece)] = piece
                filled += len(piece)
                if filled == tokens:
                    return stream

    def _documents(self) -> Iterator[str]:
        return documents(text_files(self.paths), self.blank_lines)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        if self.tokenizer_file is not None:
            tokenizer = from_file(self.tokenizer_file.expanduser())
        else:
            tokenizer = train(self._documents(), self.vocab_size)
        apply_template_choice(tokenizer, self.chat_template)
        return tokenizer

    @cached_property
    def _encoded(self) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all documents, (tokens,) int32, and where each ends, (documents,) int64."""
        tokenizer = self._tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        begin = [] if bos in (None, eos) else [bos]
        pieces, lengths = [], []
        waiting = self._documents()
        while batch := list(islice(waiting, BATCH)):
            encoded = tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            rows = [[*begin, *one.ids, eos] for one in encoded]
            pieces.append(np.fromiter((token for row in rows for token in row), dtype=np.int32))
            lengths += [len(row) for row in rows]
        return np.concatenate(pieces), np.cumsum(lengths)
