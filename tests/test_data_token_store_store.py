"""The token store, its windows and its ledger: what is written is what is read, and every token is accounted for."""

import json
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models

from lavra.core.errors import CorruptFile, InputError
from lavra.data.packing import cut, cut_many
from lavra.data.shuffle import WindowPlace, WindowShuffle
from lavra.data.token_store.store import TokenStore
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.usage import data_usage

DOCUMENTS = [
    (f"topic-{number % 3}" if number > 5 else "first", topics[name]) for number, name in enumerate(sorted(topics))
]
DOCUMENTS.sort(key=lambda pair: pair[0])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for _, text in DOCUMENTS[:30]], 400)


@pytest.fixture(scope="module")
def store(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return write(tmp_path_factory.mktemp("stores") / "store", DOCUMENTS, tokenizer)


def write(folder: Path, documents: list[tuple[str, str]], tokenizer: Tokenizer, keep_texts: bool = False) -> TokenStore:
    with StoreWriter(folder, tokenizer, keep_texts=keep_texts) as writer:
        for source, text in documents:
            writer.add(source, text, np.array(tokenizer.encode(text)))
    return writer.opened()


@cache
def counting(vocabulary: int) -> Tokenizer:
    """A tokenizer whose ids are numbers, and whose documents end with 0."""
    words = {"</s>": 0} | {str(number): number for number in range(1, vocabulary)}
    return Tokenizer(Library(models.WordLevel(words, "1")), "</s>")


def numbered(tmp_path: Path, lengths: list[int], sources: list[str]) -> TokenStore:
    """A store of given document lengths (end tokens not counted), whose ids are 1, 2, 3 … and 0 at the ends."""
    tokenizer = counting(600 if sum(lengths) < 600 else 70_000)
    with StoreWriter(tmp_path / "numbered", tokenizer) as writer:
        done = 0
        for length, source in zip(lengths, sources, strict=True):
            writer.add(source, "x" * length + "y", np.arange(done + 1, done + 1 + length))
            done += length
    return writer.opened()


def test_documents_come_back_with_their_bytes_and_sources(store: TokenStore, tokenizer: Tokenizer) -> None:
    assert len(store) == len(DOCUMENTS)
    for number, (_, text) in enumerate(DOCUMENTS):
        document = store.document(number)
        assert document[-1] == tokenizer.end_of_document
        assert tokenizer.decode(document[:-1]) == text
        assert store.document_bytes[number] == len(text.encode())
    manifest = store.manifest
    assert store.tokens.dtype == np.uint16
    assert [source.name for source in manifest.sources] == ["first", "topic-0", "topic-1", "topic-2"]
    assert (
        manifest.tokens == len(store.tokens) == store.offsets[-1] == sum(source.tokens for source in manifest.sources)
    )
    assert manifest.bytes == sum(len(text.encode()) for _, text in DOCUMENTS)
    assert manifest.characters == sum(len(text) for _, text in DOCUMENTS)
    assert manifest.words == sum(len(text.split()) for _, text in DOCUMENTS)
    assert manifest.tokenizer_fingerprint == tokenizer.fingerprint == store.tokenizer.fingerprint
    assert list(store.texts()) == [text for _, text in DOCUMENTS]
    store.verify()


def test_positions_find_their_documents(store: TokenStore) -> None:
    expected = np.repeat(np.arange(len(store)), np.diff(np.asarray(store.offsets).astype(np.int64)))
    assert (store.documents_at(np.arange(store.manifest.tokens)) == expected).all()


def test_kept_texts_are_the_originals_where_decoding_would_lose_them(tmp_path: Path) -> None:
    lossy = Tokenizer(Library(models.WordLevel({"</s>": 0, "<unk>": 1}, "<unk>")), "</s>")
    texts = ["Ação\ne reação", "\u2028 linha", "🙂"]
    assert list(write(tmp_path / "a", [("s", text) for text in texts], lossy, keep_texts=True).texts()) == texts


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    store = numbered(tmp_path, [3, 69_990 - 3], ["a", "a"])
    assert store.tokens.dtype == np.uint32
    assert store.document(0).tolist() == [1, 2, 3, 0]
    assert store.document(1)[-2] == 69_990


def test_a_source_met_again_is_accounted_apart(tmp_path: Path) -> None:
    store = numbered(tmp_path, [2, 3, 4, 5], ["a", "b", "b", "a"])
    assert [(source.name, source.documents, source.tokens) for source in store.manifest.sources] == [
        ("a", 1, 3),
        ("b", 2, 9),
        ("a (2)", 1, 6),
    ]


def test_equal_texts_have_equal_fingerprints(tmp_path: Path, tokenizer: Tokenizer) -> None:
    prints = [
        write(tmp_path / str(number), documents, tokenizer).manifest.sources[0].fingerprint
        for number, documents in enumerate(
            [[("a", "xy"), ("a", "z")], [("b", "xy"), ("b", "z")], [("a", "x"), ("a", "yz")]]
        )
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_store_is_written_whole_or_not_at_all(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = iter([("a", "texto"), None])
    with pytest.raises(TypeError):
        write(tmp_path / "store", documents, tokenizer)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="no document"), StoreWriter(tmp_path / "store", tokenizer):
        pass
    with pytest.raises(ValueError, match="end-of-document"), StoreWriter(tmp_path / "store", tokenizer) as writer:
        writer.add("a", "texto", np.array([5, tokenizer.end_of_document]))
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "store", [("a", "um")], tokenizer)
    with pytest.raises(InputError, match="exists already") as caught:
        write(tmp_path / "store", [("a", "dois")], tokenizer)
    assert "--force" in caught.value.remedy
    with StoreWriter(tmp_path / "store", tokenizer, force=True) as writer:
        writer.add("a", "dois", np.array(tokenizer.encode("dois")))
    assert list(writer.opened().texts()) == ["dois"]


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "document_bytes.bin"])
def test_a_truncated_or_missing_file_is_named_with_both_sizes(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write(tmp_path / "store", DOCUMENTS[:3], tokenizer).folder
    size = (folder / name).stat().st_size
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(
        CorruptFile, match=rf"{name} is damaged: it has {size - 1} bytes and should have {size}"
    ) as caught:
        TokenStore.open(folder)
    assert "lavra prepare" in caught.value.remedy
    (folder / name).unlink()
    with pytest.raises(CorruptFile, match=f"{name} is missing"):
        TokenStore.open(folder)


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "document_bytes.bin"])
def test_a_flipped_byte_is_found_by_verify(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write(tmp_path / "store", DOCUMENTS[:3], tokenizer).folder
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=f"{name} is damaged: its content is not what was written"):
        TokenStore.open(folder).verify()


def test_a_foreign_or_broken_manifest_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write(tmp_path / "store", DOCUMENTS[:2], tokenizer).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    for content, message in [
        ("{", "manifest.json is damaged"),
        ("[]", "is no manifest of a token store"),
        (json.dumps({**manifest, "format_version": 99}), "format version 99"),
        (json.dumps({**manifest, "sources": [{}]}), "manifest.json is damaged"),
    ]:
        (folder / "manifest.json").write_text(content)
        with pytest.raises(CorruptFile, match=message):
            TokenStore.open(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CorruptFile, match=r"manifest\.json is missing"):
        TokenStore.open(folder)


def test_a_tokenizer_that_is_not_the_stores_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = write(tmp_path / "store", DOCUMENTS[:2], tokenizer)
    Tokenizer.train(["outro texto"], 300).save(store.folder / "tokenizer")
    with pytest.raises(CorruptFile, match="is not the tokenizer"):
        _ = TokenStore.open(store.folder).tokenizer


def test_a_window_holds_the_token_before_it_and_tells_its_documents_apart(tmp_path: Path) -> None:
    store = numbered(tmp_path, [2, 0, 3], ["a", "a", "b"])  # the stream is 1 2 0 | 0 | 3 4 5 0
    window = cut(store, WindowPlace(0, 1, 6))
    assert window.tokens.tolist() == [1, 2, 0, 0, 3, 4, 5]
    assert window.documents.tolist() == [0, 0, 1, 2, 2, 2]
    assert window.document_ids.tolist() == [0, 0, 1, 2, 2, 2]
    assert window.positions.tolist() == [0, 1, 0, 0, 1, 2]
    around = cut(store, WindowPlace(0, 6, 4))
    assert around.tokens.tolist() == [4, 5, 0, 1, 2]
    assert around.documents.tolist() == [2, 2, 0, 0]
    assert around.document_ids.tolist() == [0, 0, 1, 1]
    assert cut(store, WindowPlace(0, 0, 1)).tokens.tolist() == [0, 1]


def test_a_single_document_that_begins_again_is_a_new_segment(tmp_path: Path) -> None:
    window = cut(numbered(tmp_path, [3], ["a"]), WindowPlace(0, 2, 4))
    assert window.tokens.tolist() == [2, 3, 0, 1, 2]
    assert window.documents.tolist() == [0, 0, 0, 0]
    assert window.document_ids.tolist() == [0, 0, 1, 1]


def test_many_windows_are_what_each_window_is(store: TokenStore) -> None:
    order = WindowShuffle(store.manifest.tokens, 96, seed=2)
    numbers = np.arange(order.windows - 20, order.windows + 20)
    windows = cut_many(store, order.places(numbers))
    for row, number in enumerate(numbers.tolist()):
        one, many = cut(store, order.window(number)), windows[row]
        for name in ("tokens", "documents", "document_ids", "positions"):
            assert (getattr(one, name) == getattr(many, name)).all()
        beyond = slice(int(windows.lengths[row]), None)
        assert (windows.documents[row, beyond] == -1).all()
        assert (windows.document_ids[row, beyond] == -1).all()


def test_windows_of_real_text_agree_with_the_offsets(store: TokenStore) -> None:
    order = WindowShuffle(store.manifest.tokens, 128, seed=4)
    places = order.places(np.arange(order.windows))
    windows = cut_many(store, places)
    for row in range(len(windows)):
        stream = (places.starts[row] + np.arange(places.lengths[row])) % store.manifest.tokens
        window = windows[row]
        assert (window.tokens[1:] == store.tokens[stream]).all()
        assert (window.documents == store.documents_at(stream)).all()
        first = stream == store.offsets[window.documents].astype(np.int64)
        assert (window.tokens[:-1][first] == store.manifest.end_of_document).all()
        assert (window.positions[first] == 0).all()


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    context=st.integers(1, 60),
    seed=st.integers(0, 2**62),
    done=st.integers(0, 400),
    data=st.data(),
)
def test_the_receipt_adds_up(
    lengths: list[int],
    context: int,
    seed: int,
    done: int,
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sources = [data.draw(st.sampled_from("abc")) for _ in lengths]
    store = numbered(tmp_path_factory.mktemp("data_usage"), lengths, sources)
    order = WindowShuffle(store.manifest.tokens, context, seed)
    usage = data_usage(store, order, done)
    seen = np.zeros(store.manifest.tokens, np.int64)
    for number in range(done):
        place = order.window(number)
        seen[(place.start + np.arange(place.length)) % len(seen)] += 1
    by_source = np.add.reduceat(seen, store.source_bounds[:-1])
    assert [source.total for source in usage.sources] == by_source.tolist()
    assert usage.epochs == done // order.windows
    assert seen.max(initial=0) - seen.min() <= 1
    assert usage.seen + usage.left == usage.tokens == store.manifest.tokens
    assert usage.total == seen.sum()
    for source in usage.sources:
        assert source.seen + source.left == source.tokens
        assert 0 <= source.seen <= source.tokens
    assert usage.to_json()["sources"][0]["name"] == usage.sources[0].name


def test_after_an_epoch_nothing_is_left_of_it(store: TokenStore) -> None:
    order = WindowShuffle(store.manifest.tokens, 64, seed=0)
    almost, whole = data_usage(store, order, order.windows - 1), data_usage(store, order, order.windows)
    assert 0 < almost.left <= 64
    assert (whole.epochs, whole.seen, whole.total) == (1, 0, store.manifest.tokens)
