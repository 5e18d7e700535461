"""A corpus of text files: its documents, its tokenizer, its stream and its identity."""

from __future__ import annotations

import gzip
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_bench.component import ConfigError, build
from kto_bench.corpora.documents import MOST_CHARACTERS, documents
from kto_bench.corpora.text import TextCorpus
from kto_bench.models import Corpus

STORIES = [
    f"the {animal} sat on the {place} .\nit slept ." for animal in ("cat", "dog", "pig") for place in ("mat", "bed")
]


def written(path: Path, text: str) -> Path:
    opened: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "stories.txt", "\n\n".join(STORIES))


def corpus(*paths: Path, **fields: Any) -> TextCorpus:
    return TextCorpus(paths=paths, **{"vocab_size": 300, **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(ConfigError) as error:
        build({"_target_": "kto_bench.corpora.text.TextCorpus", **fields}, Corpus, "model.corpus")
    return str(error.value)


def split(ids: np.ndarray, end: int) -> list[tuple[int, ...]]:
    """The documents of a stream, without the last, which may be cut."""
    places = np.flatnonzero(ids == end)
    return [tuple(part[part != end].tolist()) for part in np.split(ids, places + 1)[:-1]]


@pytest.mark.parametrize(
    ("blank_lines", "expected"),
    [(1, ["a\nb", "c", "  d", "e"]), (2, ["a\nb\n\nc", "  d\n\t\ne"]), (None, ["a\nb\n\nc\n \n\n  d\n\t\ne"])],
)
def test_blank_lines_end_documents(tmp_path: Path, blank_lines: int | None, expected: list[str]) -> None:
    path = written(tmp_path / "x.txt", "\n\na\nb\n\nc\n \n\n  d\n\t\ne\n\n\n")
    assert list(documents([path], blank_lines)) == expected


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz", "x.txt.xz"])
def test_compressed_files_hold_the_same_text(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "ﬁrst é\n\nsecond")
    assert list(documents([path, path], None)) == ["ﬁrst é\n\nsecond"] * 2, "the end of a file ends a document"


@given(st.lists(st.text("ab \n", max_size=40), max_size=12), st.sampled_from([1, 2, None]))
def test_no_text_is_lost_or_added(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], blank: int | None
) -> None:
    text = "\n".join([*parts, "end"])
    path = written(tmp_path_factory.mktemp("text") / "x.txt", text)
    found = list(documents([path], blank))
    assert [line for one in found for line in one.split("\n") if line.strip()] == [
        line for line in text.split("\n") if line.strip()
    ]
    assert all(one.strip() for one in found)


def test_a_long_document_is_cut_at_line_ends(tmp_path: Path) -> None:
    lines = [f"line {i} " + "x" * 90 for i in range(1000)]
    found = list(documents([written(tmp_path / "x.txt", "\n".join(lines))], None))
    assert max(map(len, found)) <= MOST_CHARACTERS
    assert len(found) == 4, "of 100,000 characters"
    assert "\n".join(found).split("\n") == lines
    one_line = list(documents([written(tmp_path / "y.txt", "y" * 100_000)], None))
    assert "".join(one_line) == "y" * 100_000
    assert max(map(len, one_line)) <= MOST_CHARACTERS


def test_each_pass_has_every_document_once_with_an_end_token_between(file: Path) -> None:
    one = corpus(file)
    tokenizer = one.tokenizer()
    whole = one.most_tokens()
    assert whole is not None
    assert whole % 4 == 0, "four passes"
    ids = one.stream(2 * whole // 4, seed=1)
    assert ids.dtype == np.int32
    read = [tokenizer.decode(part) for part in split(ids, tokenizer.eos_token_id)]
    assert Counter(read[: len(STORIES)]) == Counter(read[len(STORIES) :]) == Counter(STORIES)
    assert read[: len(STORIES)] != read[len(STORIES) :], "each pass has its own order"


def test_the_stream_is_drawn_from_the_seed(file: Path) -> None:
    first = corpus(file).stream(200, seed=3)
    assert np.array_equal(first, corpus(file).stream(200, seed=3))
    assert np.array_equal(first[:150], corpus(file).stream(150, seed=3))
    assert not np.array_equal(first, corpus(file).stream(200, seed=4))


def test_the_trained_tokenizer_is_the_same_each_time_and_reads_any_text(file: Path) -> None:
    one, other = corpus(file).tokenizer(), corpus(file).tokenizer()
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert 258 < len(one) <= 300
    assert one.bos_token == one.eos_token != one.pad_token
    text = "  Ünheard of:\t🐈\n\n cat"
    assert one.decode(one(text)["input_ids"]) == text
    assert len(one(" sat on the")["input_ids"]) < len(" sat on the") / 2, "what is frequent is merged"
    assert "<|user|>" in one.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_a_tokenizer_of_the_users(tmp_path: Path, file: Path, shared: Callable[[str], Path]) -> None:
    for name, begin, end in (("llama-32k", "<s>", "</s>"), ("gpt-neox-20b", "<|endoftext|>", "<|endoftext|>")):
        one = corpus(file, tokenizer_file=shared(f"tokenizers/{name}.tokenizer.json"), blank_lines=None)
        tokenizer = one.tokenizer()
        assert (tokenizer.bos_token, tokenizer.eos_token) == (begin, end)
        ids = tokenizer.backend_tokenizer.encode(file.read_text(), add_special_tokens=False).ids
        ids = [*([tokenizer.bos_token_id] if begin != end else []), *ids, tokenizer.eos_token_id]
        assert one.stream(2 * len(ids), seed=0).tolist() == 2 * ids
        assert "vocab_size" not in one.identity()
    no_end = refused_later(corpus(file, tokenizer_file=shared("tokenizers/bpe-2k.tokenizer.json")))
    assert "model.corpus.tokenizer_file: " in no_end
    assert "has no token that ends a text" in no_end
    assert "is no tokenizer.json" in refused_later(corpus(file, tokenizer_file=file))


def refused_later(one: TextCorpus) -> str:
    """Of what is found out by reading only."""
    with pytest.raises(ConfigError) as error:
        one.tokenizer()
    return str(error.value)


def test_its_identity_is_the_content(tmp_path: Path, file: Path) -> None:
    before = corpus(file).identity()
    moved = file.rename(tmp_path / "moved.txt")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert corpus(moved, name="other").identity() == before
    written(folder / "b.txt.gz", "b")
    (folder / "a.txt").write_bytes(moved.read_bytes())
    (folder / "notes.md").write_text("not text")
    assert corpus(folder / "a.txt").identity() == before
    assert corpus(folder).identity() == corpus(folder / "a.txt", folder / "b.txt.gz").identity() != before
    for change in ({"vocab_size": 301}, {"blank_lines": 2}, {"most_passes": 1}, {"chat_template": "plain"}):
        assert corpus(moved, **change).identity() != before
    moved.write_text(moved.read_text() + "!")
    assert corpus(moved).identity() != before


def test_bad_files_are_named_with_what_to_do(tmp_path: Path, file: Path) -> None:
    target = "model.corpus.paths: "
    assert refused(paths=str(tmp_path / "no.txt")).startswith(
        f"{target}{tmp_path / 'no.txt'} does not exist (looked in"
    )
    assert "no file is given" in refused(paths=[])
    assert refused() == "model.corpus.paths: required, but not given"
    assert "model.corpus.tokenizer_file: 'none.json' is not allowed: there is no such file" in refused(
        paths=str(file), tokenizer_file="none.json"
    )
    assert "model.corpus.vocab_size: 100 is not allowed" in refused(paths=str(file), vocab_size=100)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert f"the folder {tmp_path} has no file named *.txt, *.txt.gz, *.txt.xz" in refused(paths=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("latin.txt", b"one\ntwo\ncaf\xe9 x\n", "is not UTF-8: invalid continuation byte (0xe9, soon after line"),
        ("empty.txt", b"", "has no text; leave it out"),
        ("blank.txt", b"\n \n\t\n", "has no text; leave it out"),
        ("cut.txt.gz", gzip.compress(b"some text " * 99)[:-12], "cannot be read"),
        ("cut.txt.xz", lzma.compress(b"some text " * 99)[:-12], "cannot be read"),
        ("plain.txt.xz", b"no archive", "cannot be read"),
    ],
)
def test_a_file_that_is_not_text_is_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    said = refused_later(corpus(tmp_path / name))
    assert said.startswith(f"model.corpus.paths: {tmp_path / name} ")
    assert complaint in said
