"""A corpus: tokenised once, read by number, split and sharded without loss, refused when it is not one."""

import csv
import gzip
import io
import json
import sys
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import BOS, EOS, made_up_store, reading_model

from lucida.corpus import TokenRows, TokenStore, open_corpus, opening, sources, tokenise
from lucida.corpus.store import PIECE
from lucida.errors import DataError, FetchError
from lucida.models import packages
from lucida.models.cache import sha256_of
from lucida.models.model import Model

TEXTS = [f"document {i} is about {'cats' if i % 2 else 'dogs'}, {'and so on, ' * (i % 5)}the end" for i in range(40)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model() -> Model:
    return reading_model()


def documents(store: TokenStore) -> list[list[int]]:
    return [store.tokens[a:b].tolist() for a, b in pairwise(store.documents)]


def text_of(model: Model, store: TokenStore) -> list[str]:
    return ["".join(model.tokenizer.convert_ids_to_tokens(ids)) for ids in documents(store)]


# --- rows -----------------------------------------------------------------------------------------

corpora = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 60), min_size=12, max_size=60),
        "context": st.integers(2, 9),
        "prefix": st.sampled_from([None, (1 << 20) - 1]),
        "seed": st.integers(-3, 2**40),
    }
)


def rows_of(folder: Path, drawn: dict, **settings: Any) -> TokenRows:
    if not folder.exists():
        made_up_store(folder, drawn["lengths"], prefix=drawn["prefix"])
    return TokenRows(TokenStore.open(folder), drawn["context"], seed=drawn["seed"], **settings)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("drawn") / "store"


@given(drawn=corpora)
def test_an_epoch_has_every_row_once_in_the_order_of_the_text(fresh, drawn: dict) -> None:
    rows = rows_of(fresh(), drawn, split="all")
    epoch, after = (rows.rows(start, len(rows)) for start in (0, len(rows)))
    width = rows.tokens_per_row
    texts = epoch[:, drawn["context"] - width :]
    assert sorted(texts[:, 0].tolist()) == list(range(0, len(rows) * width, width))
    assert (texts == texts[:, :1] + torch.arange(width)).all()
    if drawn["prefix"] is not None:
        assert (epoch[:, 0] == drawn["prefix"]).all()
    assert sorted(after.tolist()) == sorted(epoch.tolist())


@given(drawn=corpora, cuts=st.lists(st.integers(0, 150), max_size=6))
def test_any_way_to_cut_the_numbers_gives_the_same_rows(fresh, drawn: dict, cuts: list[int]) -> None:
    """The resume law: what was served is one integer, so a new reader at that number goes on exactly."""
    folder = fresh()
    whole = rows_of(folder, drawn).rows(0, 150).tolist()
    edges = [0, *sorted(cuts), 150]
    parts = [rows_of(folder, drawn).rows(a, b - a) for a, b in pairwise(edges)]
    assert torch.cat(parts).tolist() == whole


@given(drawn=corpora, shards=st.integers(1, 5), start=st.integers(0, 100), count=st.integers(0, 40))
def test_shards_together_are_the_single_process(fresh, drawn: dict, shards: int, start: int, count: int) -> None:
    folder = fresh()
    whole = rows_of(folder, drawn).rows(start, count).tolist()
    woven: list = [None] * count
    for i in range(shards):
        part = rows_of(folder, drawn, shard=(i, shards)).rows(start, count).tolist()
        woven[(i - start) % shards :: shards] = part
    assert woven == whole


@given(drawn=corpora)
def test_held_out_text_is_never_trained_on(fresh, drawn: dict) -> None:
    folder = fresh()
    splits = {split: rows_of(folder, drawn, split=split) for split in ("train", "held-out")}
    seen = {split: set(rows.rows(0, 2 * len(rows))[:, 1:].flatten().tolist()) for split, rows in splits.items()}
    assert len(splits["held-out"]) >= 1
    assert not seen["train"] & seen["held-out"]
    assert sum(rows.n_tokens for rows in splits.values()) == sum(drawn["lengths"])


def test_about_two_percent_is_held_out_whatever_the_seed(tmp_path: Path) -> None:
    store = made_up_store(tmp_path / "store", [50] * 4000)
    held = [TokenRows(store, 25, split="held-out", seed=seed) for seed in (0, 1)]
    assert 0.015 < held[0].n_tokens / store.n_tokens < 0.025
    first, second = (sorted(rows.rows(0, len(rows)).tolist()) for rows in held)
    assert first == second
    assert held[0].rows(0, 9).tolist() != held[1].rows(0, 9).tolist()
    orders = [TokenRows(store, 25).rows(start, 20).tolist() for start in (0, len(TokenRows(store, 25)))]
    assert orders[0] != orders[1]  # each epoch has an order of its own


def test_what_is_held_out_does_not_depend_on_the_context(tmp_path: Path) -> None:
    """A dictionary trained with a context of 16 is evaluated with one of 512 on text it never saw."""
    store = made_up_store(tmp_path / "store", [50] * 220)
    trained = TokenRows(store, 16)
    held = TokenRows(store, 512, split="held-out")
    assert held.n_tokens + trained.n_tokens == store.n_tokens
    seen = set(trained.rows(0, len(trained)).flatten().tolist())
    assert not seen & set(held.rows(0, len(held)).flatten().tolist())


def test_copies_of_a_piece_are_on_one_side(tmp_path: Path) -> None:
    from lucida.corpus.store import write_store

    texts = [np.arange(i % 7, i % 7 + 20) for i in range(70)]
    settings = {"name": "copies", "source": {}, "tokenizer": "none", "prefix": None, "separator": None}
    store = write_store(tmp_path / "store", texts, d_vocab=100, **settings)
    held = TokenRows(store, 20, split="held-out")
    assert len(held) >= 10  # one row was needed, and its nine copies came along
    trained = {tuple(row) for row in TokenRows(store, 20).rows(0, 70).tolist()}
    assert not trained & {tuple(row) for row in held.rows(0, 10).tolist()}


def test_one_long_document_is_split_by_pieces(tmp_path: Path) -> None:
    store = made_up_store(tmp_path / "store", [20 * PIECE + 5])
    held, train = (TokenRows(store, 64, split=split) for split in ("held-out", "train"))
    assert store.n_documents == 1
    assert held.n_tokens + train.n_tokens == store.n_tokens
    assert held.n_tokens <= 5 * PIECE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 500}, r"has 90 tokens \(all\), a row takes 500"),
        ({"context": 0}, "no room for text"),
        ({"context": 1, "prefix": 3}, "no room for text"),
        ({"prefix": 1 << 21}, "not in the vocabulary"),
        ({"shard": (2, 2)}, "shard 2 of 2"),
        ({"split": "test"}, "train, held-out, all"),
    ],
)
def test_impossible_rows_are_refused(settings: dict, message: str, tmp_path: Path) -> None:
    store = made_up_store(tmp_path / "store", [30, 30, 30])
    with (
        pytest.raises(DataError, match=message) if "split" not in settings else pytest.raises(Exception, match="split")
    ):
        TokenRows(store, **{"context": 8, "split": "all", **settings})


def test_negative_numbers_are_refused(tmp_path: Path) -> None:
    rows = TokenRows(made_up_store(tmp_path / "store", [30] * 9), 8)
    with pytest.raises(DataError, match="begin at 0"):
        rows.rows(-1, 4)


def test_a_corpus_of_one_piece_cannot_be_split(tmp_path: Path) -> None:
    store = made_up_store(tmp_path / "store", [30])
    with pytest.raises(DataError, match=r"has 0 tokens \(train\)"):
        TokenRows(store, 8)


# --- the store ------------------------------------------------------------------------------------


def test_a_store_is_read_as_it_was_written(tmp_path: Path) -> None:
    lengths = [3, 1, 5]
    for d_vocab, width in ((1 << 16, 2), ((1 << 16) + 1, 4)):
        store = made_up_store(tmp_path / str(width), lengths, prefix=7, d_vocab=d_vocab)
        assert documents(store) == [[0, 1, 2], [3], [4, 5, 6, 7, 8]]
        assert store.tokens.itemsize == width
        assert (store.header.prefix, store.header.n_documents, store.n_tokens) == (7, 3, 9)
        assert [store.document_of(i) for i in range(9)] == [0, 0, 0, 1, 2, 2, 2, 2, 2]
        assert store.window(5, before=4, after=2).tolist() == [4, 5, 6, 7]
        assert store.window(3, before=4, after=2).tolist() == [3]
        for index in (-1, 9):
            with pytest.raises(DataError, match="tokens 0 to 8"):
                store.document_of(index)


def test_the_fingerprint_follows_what_rows_see(tmp_path: Path) -> None:
    settings = [([3, 4], None), ([4, 3], None), ([3, 4], 5), ([3, 4], None)]
    found = [
        made_up_store(tmp_path / str(i), lengths, prefix=prefix).fingerprint
        for i, (lengths, prefix) in enumerate(settings)
    ]
    assert found[0] == found[3]
    assert len(set(found)) == 3


def _edit(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / "header.json").read_text("utf-8"))
    (folder / "header.json").write_text(json.dumps(fields | changes), "utf-8")


def _rewrite(folder: Path, name: str, array: np.ndarray) -> None:
    """Replace an array and make the header agree with it."""
    array.tofile(folder / name)
    fields = json.loads((folder / "header.json").read_text("utf-8"))
    record = {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    _edit(folder, files=fields["files"] | {name: record})


def _flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut tokens": (lambda f: (f / "tokens.bin").write_bytes(b"12345678"), "has 8 of 180 bytes"),
    "no tokens": (lambda f: (f / "tokens.bin").unlink(), "has 0 of 180 bytes"),
    "a flipped bit": (lambda f: _flip(f / "tokens.bin"), "sha256 is not the recorded one"),
    "flipped starts": (lambda f: _flip(f / "documents.bin"), "sha256 is not the recorded one"),
    "no header": (lambda f: (f / "header.json").unlink(), "no readable header.json"),
    "half a header": (lambda f: (f / "header.json").write_text('{"format": 1,'), "header.json is damaged"),
    "a header of something else": (lambda f: (f / "header.json").write_text('{"format": 1}'), "header.json is damaged"),
    "a list": (lambda f: (f / "header.json").write_text("[1]"), "header.json is damaged"),
    "a later format": (lambda f: _edit(f, format=2), "format 2, this version reads 1"),
    "other files": (lambda f: _edit(f, files={}), "lists other files"),
    "impossible ids": (lambda f: _edit(f, d_vocab=80), "damaged"),
    "wrong counts": (lambda f: _edit(f, n_documents=4), "damaged"),
    "unsorted starts": (lambda f: _rewrite(f, "documents.bin", np.array([0, 60, 30, 90], dtype="<i8")), "damaged"),
    "starts beyond the end": (
        lambda f: _rewrite(f, "documents.bin", np.array([0, 30, 60, 99], dtype="<i8")),
        "damaged",
    ),
    "pieces of another": (lambda f: _rewrite(f, "pieces.bin", np.array([[0, 1], [31, 2]], dtype="<u8")), "damaged"),
    "half a piece": (lambda f: _rewrite(f, "pieces.bin", np.array([0, 1, 30], dtype="<u8")), "damaged"),
    "no pieces": (lambda f: _rewrite(f, "pieces.bin", np.array([], dtype="<u8")), "damaged"),
    "no documents": (lambda f: _rewrite(f, "documents.bin", np.array([], dtype="<i8")), "damaged"),
    "no ids": (lambda f: _rewrite(f, "tokens.bin", np.array([], dtype="<u2")), "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    made_up_store(folder, [30, 30, 30], d_vocab=100)
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(DataError, match=message) as caught:
        TokenStore.open(folder)
    assert "\n" not in str(caught.value)


def test_the_store_of_another_tokenizer_is_refused(tmp_path: Path, model: Model) -> None:
    made_up_store(tmp_path / "store", [30], d_vocab=97)
    with pytest.raises(DataError, match="another tokenizer"):
        open_corpus(str(tmp_path / "store"), model)


# --- documents ------------------------------------------------------------------------------------


def as_jsonl(texts: list[str], column: str) -> bytes:
    return "".join(json.dumps({column: text, "id": i}) + "\n" for i, text in enumerate(texts)).encode()


def as_csv(texts: list[str], column: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([("id", column), *enumerate(texts)])
    return out.getvalue().encode()


def as_parquet(texts: list[str], column: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": range(len(texts)), column: texts}), out)
    return out.getvalue()


def as_zst(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(content)


FORMATS: dict[str, Callable[[list[str], str], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.ndjson.gz": lambda texts, column: gzip.compress(as_jsonl(texts, column)),
    "a.jsonl.zst": lambda texts, column: as_zst(as_jsonl(texts, column)),
    "a.csv": as_csv,
    "a.csv.zst": lambda texts, column: as_zst(as_csv(texts, column)),
    "two frames.csv.zst": lambda texts, column: as_zst(as_csv(texts, column)[:99]) + as_zst(as_csv(texts, column)[99:]),
    "a.parquet": as_parquet,
}


def text_folder(folder: Path, texts: list[str]) -> Path:
    for i, text in enumerate(texts):
        path = folder / f"part {i % 3}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_tokens(name: str, tmp_path: Path, model: Model) -> None:
    texts = [*TEXTS, "two\nlines, \"quoted\" and 'comma, ed'", "  leading and trailing  "]
    expected = open_corpus(str(text_folder(tmp_path / "texts", texts)), model)
    assert sorted(text_of(model, expected)) == sorted(text + "</s>" for text in texts)
    assert (expected.header.prefix, expected.header.separator) == (BOS, EOS)
    path = tmp_path / name
    path.write_bytes(FORMATS[name](texts, "body"))
    found = open_corpus(str(path), model, column="body")
    assert found.fingerprint == expected.fingerprint


def test_compressed_text_is_one_document(tmp_path: Path, model: Model) -> None:
    for name, content in (("b.txt.gz", gzip.compress(b"one text")), ("b.txt", "\ufeffone text".encode())):
        path = tmp_path / name
        path.write_bytes(content)
        assert text_of(model, open_corpus(str(path), model)) == ["one text</s>"]


def test_copies_and_blank_documents_are_left_out(tmp_path: Path, model: Model) -> None:
    texts = ["one", "two", "one", "", " \n ", "two", "three"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(texts, "text"))
    assert sorted(text_of(model, open_corpus(str(path), model))) == ["one</s>", "three</s>", "two</s>"]


def test_the_order_is_shuffled_and_does_not_depend_on_the_files(tmp_path: Path, model: Model) -> None:
    stores = []
    for name, texts in (("up", TEXTS), ("down", TEXTS[::-1])):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(as_jsonl(texts, "text"))
        stores.append(open_corpus(str(path), model))
    assert stores[0].fingerprint == stores[1].fingerprint
    order = [int(text.split()[1]) for text in text_of(model, stores[0])]
    assert sorted(order) == list(range(40))
    assert order != sorted(order)
    assert order != sorted(order, reverse=True)


@pytest.mark.parametrize("guess", [0.2, 4.5])
def test_a_cut_is_the_beginning_of_the_whole(
    guess: float, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However badly the first round guesses, and so however many rounds it takes."""
    monkeypatch.setattr(tokenise, "_MANY", guess)
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS, "text"))
    whole = open_corpus(str(path), model)
    for wanted in (1, 100, 801, whole.n_tokens, whole.n_tokens + 1):
        cut = open_corpus(str(path), model, max_tokens=wanted)
        assert cut.n_tokens == min(wanted, whole.n_tokens)
        assert np.array_equal(cut.tokens, whole.tokens[: cut.n_tokens])


def test_a_second_call_opens_the_cache(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS, "text"))
    first = open_corpus(str(path), model)
    with monkeypatch.context() as patched:
        patched.setattr(opening, "tokenise", lambda *_, **__: pytest.fail("tokenised again"))
        assert open_corpus(str(path), model).fingerprint == first.fingerprint
        assert open_corpus(str(first.folder), model).fingerprint == first.fingerprint
    path.write_bytes(as_jsonl([*TEXTS, "one more"], "text"))
    changed = open_corpus(str(path), model)
    assert changed.n_documents == first.n_documents + 1
    other = reading_model(adds_bos=False)
    assert open_corpus(str(path), other).header.prefix is None


def test_nothing_is_left_of_a_failed_try(tmp_path: Path, cache: Path, model: Model) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS, "text") + b"{")
    with pytest.raises(DataError, match="line 41"):
        open_corpus(str(path), model)
    assert list((cache / "corpora").iterdir()) == []


def test_progress_ends_each_stage(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS, "text"))
    for wanted in (None, 500):
        last: dict[str, tuple[int, int | None]] = {}

        def note(stage: str, done: int, total: int | None, last: dict = last) -> None:
            last[stage] = (done, total)

        open_corpus(str(path), model, max_tokens=wanted, progress=note)
        assert last["reading documents"] == (40, 40)
        assert last["tokenising"] == ((40, 40) if wanted is None else (500, 500))


def test_a_long_document_goes_through_the_tokenizer_in_pieces(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl(TEXTS, "text"))
    whole = documents(open_corpus(str(path), model))
    monkeypatch.setattr(tokenise, "LONGEST", 20)
    monkeypatch.setattr(tokenise, "_BATCH_CHARACTERS", 50)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "other"))
    assert documents(open_corpus(str(path), model)) == whole
    assert list(tokenise.pieces_of("one two\nthree four five six seven")) == [
        "one two\n", "three four five six ", "seven"
    ]  # fmt: skip
    assert [len(piece) for piece in tokenise.pieces_of("x" * 45)] == [20, 20, 5]


def test_half_a_surrogate_pair_is_no_reason_to_stop(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\\ud800b"}\n')
    assert text_of(model, open_corpus(str(path), model)) == ["a<unk>b</s>"]


# --- what is not a corpus -------------------------------------------------------------------------

GOOD_JSONL, GOOD_CSV = as_jsonl(TEXTS, "text"), as_csv(TEXTS, "text")

BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "an empty file": ("a.txt", lambda: b"", "is empty"),
    "only blanks": ("a.txt", lambda: b" \n\t\n", "is empty"),
    "zero bytes": ("a.txt", lambda: b"text\0text", "not text: it has zero bytes"),
    "latin-1": ("a.txt", lambda: "caf\xe9".encode("latin-1"), "not UTF-8 text .byte 0xe9 at 3, line 1"),
    "latin-1 records": ("a.jsonl", lambda: b'{"text": "a"}\n{"text": "caf\xe9"}\n', ".byte 0xe9 at 27, line 2"),
    "latin-1 in gzip": ("a.jsonl.gz", lambda: gzip.compress(b'{"text": "caf\xe9"}\n'), ".byte 0xe9 at 13, line 1"),
    "a cut gzip": ("a.jsonl.gz", lambda: gzip.compress(GOOD_JSONL)[:-20], "ends early"),
    "a damaged gzip": ("a.jsonl.gz", lambda: gzip.compress(GOOD_JSONL)[:60] + b"garbage" * 20, "damaged or not gzip"),
    "no gzip": ("a.txt.gz", lambda: b"plain text", "damaged or not gzip"),
    "a cut zstd": ("a.jsonl.zst", lambda: as_zst(GOOD_JSONL)[:-20], "ends early"),
    "a zstd cut in its second frame": (
        "a.jsonl.zst",
        lambda: as_zst(GOOD_JSONL) + as_zst(GOOD_JSONL)[:30],
        "ends early",
    ),
    "no zstd": ("a.csv.zst", lambda: b"plain text", "damaged or not zstd"),
    "a cut record": ("a.jsonl", lambda: GOOD_JSONL[:-12], "line 40 of a.jsonl ends early"),
    "no JSON": ("a.jsonl", lambda: b"plain text\n{}\n", "line 1 of a.jsonl is not JSON"),
    "a list": ("a.jsonl", lambda: b'["text"]\n', "line 1 of a.jsonl is not a JSON object"),
    "another key": ("a.jsonl", lambda: b'{"body": "x", "id": 1}\n', r"no column 'text' \(it has: body, id\).*--column"),
    "a number": ("a.jsonl", lambda: b'{"text": 3}\n', "column 'text' of line 1 of a.jsonl is not text"),
    "another column": ("a.csv", lambda: as_csv(TEXTS, "body"), r"no column 'text' \(it has: id, body\)"),
    "no columns": ("a.csv", lambda: b"", r"no column 'text' \(it has: none\)"),
    "a short record": ("a.csv", lambda: b"id,text\n1,one\n2\n", "line 3 of a.csv ends early"),
    "an open quote": ("a.csv", lambda: b'id,text\n1,"one two\n', "a.csv ends early"),
    "a stray quote": ("a.csv", lambda: b'id,text\n1,"one" two\n', "a.csv is not CSV"),
    "no Parquet": ("a.parquet", lambda: b"plain text", "is not Parquet"),
    "a cut Parquet": ("a.parquet", lambda: as_parquet(TEXTS, "text")[:-30], "is not Parquet"),
    "another Parquet column": ("a.parquet", lambda: as_parquet(TEXTS, "body"), r"\(it has: id, body\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_a_corpus_is_refused_in_one_line(case: str, tmp_path: Path, model: Model, cache: Path) -> None:
    name, content, message = BAD[case]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / "texts" / name
    path.parent.mkdir()
    path.write_bytes(content())
    for spec in (path, path.parent):
        with pytest.raises(DataError, match=message) as caught:
            open_corpus(str(spec), model)
        assert "\n" not in str(caught.value)
    assert not list(cache.glob("corpora/*"))


def test_a_parquet_column_of_numbers_is_not_text(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet(TEXTS, "text"))
    with pytest.raises(DataError, match=r"column 'id' of a\.parquet is not text"):
        open_corpus(str(path), model, column="id")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no-such-file.txt", "no corpus 'no-such-file.txt'"),
        ("folder/no-such-file.jsonl", "no corpus"),
        ("sae-prob", r"did you mean sae-probes\?"),
        ("", "no corpus ''"),
    ],
)
def test_a_missing_corpus_is_named(spec: str, message: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=message):
        open_corpus(spec, model)


def test_an_empty_folder_and_hidden_files_are_no_corpus(tmp_path: Path, model: Model) -> None:
    (tmp_path / "texts" / ".git").mkdir(parents=True)
    (tmp_path / "texts" / ".git" / "a.txt").write_text("hidden")
    (tmp_path / "texts" / ".hidden").write_text("hidden")
    with pytest.raises(DataError, match="has no files"):
        open_corpus(str(tmp_path / "texts"), model)


def test_text_needs_a_tokenizer_and_a_number_of_tokens(tmp_path: Path, model: Model, tiny_model) -> None:
    with pytest.raises(DataError, match="no tokenizer"):
        open_corpus(str(tmp_path), tiny_model("llama"))
    with pytest.raises(DataError, match="at least 1"):
        open_corpus(str(tmp_path), model, max_tokens=0)


@pytest.mark.parametrize("kind", ["fewer", "others"])
def test_a_corpus_that_changes_while_it_is_read_is_refused(kind: str, tmp_path: Path, model: Model) -> None:
    passes = iter([TEXTS, TEXTS[:20] if kind == "fewer" else TEXTS[:39]])
    source = sources.TextSource("changing", "fingerprint", lambda: iter(next(passes)))
    silent: Any = lambda *_: None  # noqa: E731
    with pytest.raises(DataError, match="changed while it was read"):
        list(tokenise.tokenise(source, model, tmp_path / "s", separator=None, max_tokens=None, progress=silent))


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("zstandard", "a.csv.zst", r"needs zstandard; pip install 'camera-lucida\[train\]'"),
        ("pyarrow", "a.parquet", "needs pyarrow; pip install pyarrow"),
        ("datasets", "org/name", "no file or folder org/name.*pip install datasets"),
    ],
)
def test_a_missing_library_is_named(
    library: str, name: str, message: str, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if "." in name:
        (tmp_path / name).write_bytes(b"anything")
        name = str(tmp_path / name)
    with pytest.raises(DataError, match=message):
        open_corpus(name, model)


# --- packages and the hub -------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel like that of a known corpus, which a faked pip gives; the registry knows it as sae-probes."""
    served = tmp_path / "served.whl"
    with zipfile.ZipFile(served, "w") as archive:
        for part in range(4):
            member = f"sae_probes/data/cleaned_data/{part}.csv.zst"
            archive.writestr(member, as_zst(as_csv(TEXTS[part * 10 : part * 10 + 12], "prompt")))
        archive.writestr("sae_probes/data/other.csv.zst", b"not this one")
    known = replace(sources.PACKAGE_CORPORA["sae-probes"], sha256=sha256_of(served), size=served.stat().st_size)
    monkeypatch.setitem(sources.PACKAGE_CORPORA, "sae-probes", known)

    def download(name: str, version: str, folder: Path, tick: Callable[[], None]) -> Path:
        assert (name, version) == ("sae-probes", "0.4.2")
        tick()
        return Path(served.rename(folder / "sae_probes.whl"))

    monkeypatch.setattr(packages, "_pip_download", download)
    return served


def test_a_corpus_in_a_package_is_fetched_once(wheel: Path, cache: Path, model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not in .*packages and fetching it was not allowed"):
        open_corpus("sae-probes", model, offline=True)
    found = open_corpus("sae-probes", model)
    expected = open_corpus(str(text_folder(tmp_path / "texts", TEXTS)), model)
    assert found.fingerprint == expected.fingerprint  # the overlaps were copies
    assert not wheel.exists()  # moved: a second download would fail
    assert open_corpus("sae-probes", model, max_tokens=50, offline=True).n_tokens == 50
    _flip(next(cache.glob("corpora/packages/*.whl")))
    with pytest.raises(DataError, match="is damaged: its sha256"):
        open_corpus("sae-probes", model)


def test_another_package_under_the_same_name_is_refused(
    wheel: Path, cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = replace(sources.PACKAGE_CORPORA["sae-probes"], sha256="0" * 64)
    monkeypatch.setitem(sources.PACKAGE_CORPORA, "sae-probes", known)
    with pytest.raises(FetchError, match="expected 000"):
        open_corpus("sae-probes", model)
    assert list((cache / "corpora" / "packages").iterdir()) == []


class Table(list):
    """As much of a data set as is used."""

    column_names = ("text", "label")
    _fingerprint = "abc"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub that answers, and a `datasets` library whose loader the test sets; it must be left with its bars on."""
    module: Any = types.ModuleType("datasets")
    module.config, module.bars = types.SimpleNamespace(HF_HUB_OFFLINE=False), []
    module.are_progress_bars_disabled = lambda: False
    module.disable_progress_bars = lambda: module.bars.append("off")
    module.enable_progress_bars = lambda: module.bars.append("on")
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    return module


def offline_switches(hub: Any) -> tuple[bool, bool]:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE, hub.config.HF_HUB_OFFLINE


def test_a_data_set_of_the_hub_is_read(tmp_path: Path, model: Model, hub: Any) -> None:
    asked = []

    def load(name: str, configuration: str | None, *, split: str) -> Table:
        asked.append((name, configuration, split, offline_switches(hub)))
        return Table({"text": text, "label": 1} for text in TEXTS)

    hub.load_dataset = load
    found = open_corpus("org/name:part", model)
    assert found.fingerprint == open_corpus(str(text_folder(tmp_path / "texts", TEXTS)), model).fingerprint
    open_corpus("org/name", model, offline=True)
    assert asked == [
        ("org/name", "part", "train", (False, False)),
        ("org/name", None, "train", (True, True)),
    ]
    assert offline_switches(hub) == (False, False)
    assert hub.bars == ["off", "on"] * 2
    with pytest.raises(DataError, match=r"no column 'body' \(it has: text, label\)"):
        open_corpus("org/name", model, column="body")
    with pytest.raises(DataError, match="column 'label' of org/name is not text"):
        open_corpus("org/name", model, column="label")


@pytest.mark.parametrize(
    ("offline", "answers", "message"),
    [
        (True, True, "the hub was not asked"),
        (False, False, "not to be had: no route"),
        (False, True, "it cannot be had: no configuration 'x'"),
    ],
)
def test_a_hub_that_does_not_give_is_one_line(
    offline: bool, answers: bool, message: str, model: Model, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nwith a long explanation")

    def load(*_: Any, **__: Any) -> None:
        assert all(offline_switches(hub)) == (offline or not answers)  # asked once, not for minutes
        raise ValueError("no configuration 'x'\nonly others")

    hub.load_dataset = load
    if not answers:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no)
    with pytest.raises(DataError, match=f"file or folder org/name, and as a data set of the hub .*{message}") as caught:
        open_corpus("org/name", model, offline=offline)
    assert "\n" not in str(caught.value)
