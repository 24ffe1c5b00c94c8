"""Examples: what is read and what is learned, cut in no silence, split without leaks, packed without loss."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.core.errors import CorruptFile, InputError
from lavra.data.examples.encoding import ExampleEncoder
from lavra.data.examples.packing import LOOK_AHEAD, pack_examples
from lavra.data.examples.prepare import holds_examples, open_prepared_examples, prepare_examples
from lavra.data.examples.rows import PAIR_COLUMNS, ExampleRow, PairColumns, read_examples
from lavra.data.examples.store import ExampleSource, ExampleStore, Kind
from lavra.data.examples.writer import ExampleWriter
from lavra.data.readers.rows import BadRows
from lavra.data.tokenizers.prompt_ids import encode_pair, encode_pairs, with_bos
from lavra.data.tokenizers.tokenizer import Tokenizer
from little_tokenizers import bart_like, byte_level, unigram, wordpiece

PAIRS = [
    {"passage": f"Parágrafo {number // 3}: a avó disse-lhe que não.", "query": f"Que disse a avó n.º {number}?"}
    for number in range(240)
]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def pair(prompt: str, completion: str, separator: str = "") -> ExampleRow:
    return ExampleRow("g", "f.jsonl:1", prompt, completion, separator)


def store_of(folder: Path, sizes: Sequence[tuple[int, int]], kind: Kind = "decoder") -> ExampleStore:
    """Examples of these decoder and encoder lengths; number n holds the token 1 + n % 500 everywhere."""
    with ExampleWriter(folder / "store", byte_level(), kind) as writer:
        for number, (length, source) in enumerate(sizes):
            tokens = np.full(length + (kind == "decoder"), 1 + number % 500)
            read = np.full(source, 1 + number % 500) if kind == "encoder-decoder" else None
            writer.add("all", [str(number)], tokens, np.arange(len(tokens)) >= len(tokens) // 2, read, 3)
    return writer.opened()


def test_a_store_gives_back_what_was_written(tmp_path: Path):
    random = np.random.default_rng(0)
    made = []
    with ExampleWriter(tmp_path / "store", byte_level(), "encoder-decoder") as writer:
        for number in range(50):
            tokens = random.integers(0, 600, random.integers(1, 30))
            learned, source = random.random(len(tokens)) < 0.5, random.integers(0, 600, random.integers(1, 20))
            learned[-1] = True
            made.append((tokens, learned, source))
            writer.add("a" if number < 20 else "b", [str(number)], tokens, learned, source, len(tokens))
    store = ExampleStore.open(tmp_path / "store")
    store.verify()
    for number, (tokens, learned, source) in enumerate(made):
        found = store[number]
        assert (found.tokens.tolist(), found.learned.tolist()) == (tokens.tolist(), learned.tolist())
        assert found.source is not None
        assert found.source.tolist() == source.tolist()
        assert (store.lengths()[number], store.source_lengths()[number]) == (len(tokens), len(source))
    manifest = store.manifest
    assert [(group.name, group.examples) for group in manifest.groups] == [("a", 20), ("b", 30)]
    assert manifest.learned == sum(int(learned.sum()) for _, learned, _ in made)
    assert manifest.bytes_per_token == manifest.learned_bytes / manifest.learned


def test_a_store_is_whole_or_absent_and_says_when_it_is_damaged(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), ExampleWriter(tmp_path / "store", byte_level(), "decoder"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no example"), ExampleWriter(tmp_path / "none", byte_level(), "decoder"):
        pass
    store = store_of(tmp_path, [(5, 0)] * 9)
    (store.folder / "learned.bin").write_bytes(b"\xff" * (store.folder / "learned.bin").stat().st_size)
    with pytest.raises(CorruptFile, match=r"learned\.bin is damaged"):
        store.verify()
    (store.folder / "learned.bin").write_bytes(b"")
    with pytest.raises(CorruptFile, match=r"learned\.bin is damaged: it has 0 bytes"):
        ExampleStore.open(store.folder)


def test_an_example_without_anything_to_learn_is_no_example(tmp_path: Path):
    with ExampleWriter(tmp_path / "store", byte_level(), "decoder") as writer:
        with pytest.raises(ValueError, match="a token to learn"):
            writer.add("g", [""], np.array([1, 2, 3]), np.array([True, False, False]))
        with pytest.raises(ValueError, match="has no source"):
            writer.add("g", [""], np.array([1, 2]), np.array([False, True]), np.array([1]))
        writer.add("g", [""], np.array([1, 2]), np.array([False, True]))


lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=120)


@given(sizes=lengths, seed=st.integers(0, 2**62), alone=st.booleans(), two=st.booleans())
def test_packing_puts_every_example_into_one_row_that_holds_it(
    sizes: list[tuple[int, int]], seed: int, alone: bool, two: bool
):
    first, second = (np.array(side) for side in zip(*sizes, strict=True))
    sides = [(first, 40), (second, 60)] if two else [(first, 40)]
    members, starts = pack_examples(sides, seed, alone=alone)
    assert sorted(members.tolist()) == list(range(len(sizes)))
    assert (starts[0], starts[-1]) == (0, len(sizes))
    assert (np.diff(starts) >= 1).all()
    assert not alone or len(starts) == len(sizes) + 1
    for values, limit in sides:
        assert all(values[members[a:b]].sum() <= limit for a, b in itertools.pairwise(starts))


def test_rows_fill_up():
    random = np.random.default_rng(0)
    sizes = np.minimum(random.lognormal(4, 0.8, 20_000).astype(int) + 1, 1024)
    members, starts = pack_examples([(sizes, 1024)], 0)
    assert sizes.sum() / (1024 * (len(starts) - 1)) > 0.99
    again, _ = pack_examples([(sizes, 1024)], 0)
    other, _ = pack_examples([(sizes, 1024)], 1)
    assert (again == members).all()
    assert (other != members).any()
    shuffled = np.array([members[start:stop].mean() for start, stop in itertools.pairwise(starts)])
    assert shuffled[: LOOK_AHEAD // 100].std() > 1000  # companions come from the whole store


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 2**40), pack=st.booleans())
def test_every_example_is_met_once_per_epoch(tmp_path_factory: Any, count: int, seed: int, pack: bool):
    random = np.random.default_rng(seed)
    sizes = [(int(a), int(b)) for a, b in random.integers(1, 16, (count, 2))]
    store = store_of(tmp_path_factory.mktemp("store"), sizes, "encoder-decoder")
    source = ExampleSource(store, 16, 20, seed, pack)
    rows = source.rows(0, 3 * source.rows_per_epoch)
    for epoch in range(3):
        part = rows[epoch * source.rows_per_epoch : (epoch + 1) * source.rows_per_epoch]
        assert sorted(example.number for row in part for example in row.examples) == list(range(count))
    for row in rows:
        assert row.length <= 16
        assert row.source_length <= 20
        assert pack or len(row.examples) == 1
    for number in (0, len(rows) // 2, len(rows) - 1):
        alone = ExampleSource(store, 16, 20, seed, pack).rows(number, 1)[0]
        assert [one.number for one in alone.examples] == [one.number for one in rows[number].examples]


def test_epochs_come_in_different_orders_and_the_share_filled_is_told(tmp_path: Path):
    store = store_of(tmp_path, [(8, 0)] * 40)
    source = ExampleSource(store, 16, seed=3)
    assert (source.rows_per_epoch, source.filled) == (20, 1.0)
    numbers = [[one.number for row in source.rows(20 * epoch, 20) for one in row.examples] for epoch in range(2)]
    assert numbers[0] != numbers[1]
    with pytest.raises(InputError, match="has 8 tokens, and a row holds 7"):
        ExampleSource(store, 7)


# What is read


@pytest.mark.parametrize("columns", [*PAIR_COLUMNS, PairColumns("pergunta", "resposta")])
def test_columns_are_recognised(tmp_path: Path, columns: PairColumns):
    beside = dict.fromkeys(columns.beside, "Onde?")
    file = written(tmp_path / "a.jsonl", [{"id": 1, columns.prompt: "Quem?", columns.completion: "Eu.", **beside}])
    given_names = columns if columns not in PAIR_COLUMNS else None
    bad_rows = BadRows()
    (row,) = read_examples([str(file)], bad_rows, columns=given_names)
    read = "Quem?\n\nOnde?" if columns.beside else "Quem?"
    assert (row.prompt, row.completion, row.group, row.place) == (read, "Eu.", "a", f"{file}:1")
    assert "".join(row.joined) == read + columns.separator + "Eu."
    assert bad_rows.report()["columns"] == [{"taken": list(columns.names), "ignored": ["id"], "files": [str(file)]}]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_other_formats_with_columns_are_read(tmp_path: Path, name: str):
    import pyarrow
    import pyarrow.parquet

    if name == "a.csv":
        (tmp_path / name).write_text('question,answer\n"Quem, afinal?",Eu\n', encoding="utf8")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"question": ["Quem, afinal?"], "answer": ["Eu"]}), tmp_path / name)
    (row,) = read_examples([str(tmp_path / name)], BadRows())
    assert row.joined == ("Quem, afinal?", "\nEu")


def test_rows_without_a_part_to_learn_are_counted_and_named(tmp_path: Path):
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a"},
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": 3},
        {"prompt": "a\x00", "completion": "b"},
        {"messages": "no chat"},
        {"messages": [{"role": "user", "content": "oi"}]},
        {"prompt": "", "completion": "only this"},
    ]
    bad = BadRows()
    found = list(read_examples([str(written(tmp_path / "a.jsonl", rows))], bad))
    assert [row.completion for row in found] == ["b", "only this"]
    assert bad.rows == 2
    assert bad.counts == {
        "no part to learn": 2,
        "empty document": 1,
        "not text": 1,
        "chat with a part that cannot be used": 1,
        "NUL byte": 1,
    }
    assert "a.jsonl:2" in bad.summary()
    with pytest.raises(InputError, match=r"a\.jsonl:2: no part to learn \(no 'prompt and completion' among prompt\)"):
        list(read_examples([str(tmp_path / "a.jsonl")], BadRows(policy="error")))


def test_data_without_columns_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("texto")
    with pytest.raises(InputError, match="is plain text, and rows with columns are needed"):
        list(read_examples([str(tmp_path / "a.txt")], BadRows()))


# Ids


def encoded(tokenizer: Tokenizer, kind: Kind, row: ExampleRow, **limits: Any) -> tuple[Any, ExampleEncoder]:
    encoder = ExampleEncoder(tokenizer, kind, BadRows(), **limits)
    return encoder.encode([row])[0], encoder


@pytest.mark.parametrize("tokenizer", [byte_level(), unigram()])
@pytest.mark.parametrize(
    ("prompt", "completion"), [("Quem disse?", " A avó."), ("Quem disse? ", "A avó."), ("", "avó")]
)
def test_a_decoder_learns_the_completion_and_its_end(tokenizer: Tokenizer, prompt: str, completion: str):
    found, _ = encoded(tokenizer, "decoder", pair(prompt, completion))
    before, after = encode_pair(tokenizer, prompt, completion)
    end = tokenizer.end_of_document
    assert found.tokens.tolist() == [*with_bos(tokenizer, before), *after, end]
    assert found.tokens[found.learned].tolist() == [*after, end]
    assert found.learned_bytes == len(completion.encode())
    if tokenizer.byte_level:
        assert tokenizer.decode(found.tokens) == prompt + completion
        assert tokenizer.decode(found.tokens[found.learned]) == (prompt + completion)[len(prompt.rstrip()) :]


def test_pairs_together_are_pairs_one_by_one():
    pairs = [(row["passage"], "\n" + row["query"]) for row in PAIRS[:20]] + [("pal", "avra"), ("", "x"), ("a ", "")]
    for tokenizer in (byte_level(), unigram(), wordpiece()):
        assert encode_pairs(tokenizer, pairs) == [encode_pair(tokenizer, *one) for one in pairs]


@pytest.mark.parametrize(
    ("tokenizer", "before", "after"),
    [(unigram(), [], ["</s>"]), (bart_like(), ["<s>"], ["</s>"]), (byte_level(), [], ["<|endoftext|>"])],
)
def test_both_sides_of_an_encoder_decoder_are_framed_as_its_tokenizer_does(
    tokenizer: Tokenizer, before: list[str], after: list[str]
):
    found, _ = encoded(tokenizer, "encoder-decoder", pair("A avó disse-lhe.", "Quem disse?", "\n"))
    for ids, text in ((found.source, "A avó disse-lhe."), (found.tokens, "Quem disse?")):
        names = [tokenizer.inner.id_to_token(int(number)) for number in ids]
        assert names[: len(before)] == before
        assert names[len(names) - len(after) :] == after
        assert ids.tolist()[len(before) : len(names) - len(after)] == tokenizer.encode(text)
    assert found.learned.all()


def test_a_long_prompt_loses_its_beginning_and_a_long_answer_is_left_out():
    tokenizer, row = byte_level(), pair("uma palavra " * 40, "a resposta é não")
    whole, _ = encoded(tokenizer, "decoder", row)
    cut, encoder = encoded(tokenizer, "decoder", row, context=40)
    assert len(cut.tokens) == 41
    assert cut.tokens[0] == tokenizer.end_of_document
    assert cut.tokens[1:].tolist() == whole.tokens[-40:].tolist()
    assert cut.tokens[cut.learned].tolist() == whole.tokens[whole.learned].tolist()
    assert encoder.cut.summary(9321, 40, None) == (
        "cut to fit 40 tokens: the beginning of the prompt in 1 of 9,321 examples\ncut examples: f.jsonl:1"
    )
    answer = int(whole.learned.sum())
    just, _ = encoded(tokenizer, "decoder", row, context=answer)
    assert just.tokens.tolist() == [tokenizer.end_of_document, *whole.tokens[whole.learned].tolist()]
    none, encoder = encoded(tokenizer, "decoder", row, context=answer - 1)
    assert none is None
    assert encoder.bad_rows.counts == {"answer longer than the context": 1}


def test_a_long_source_loses_its_end_but_not_its_frame():
    tokenizer, row = bart_like(), pair("uma palavra " * 40, "sim")
    whole, _ = encoded(tokenizer, "encoder-decoder", row)
    cut, encoder = encoded(tokenizer, "encoder-decoder", row, context=40, source_context=24)
    assert cut.source.tolist() == [*whole.source[:23].tolist(), whole.source[-1]]
    assert cut.tokens.tolist() == whole.tokens.tolist()
    assert "cut to fit 24 tokens: the end of the source in 1 of 5 examples" in encoder.cut.summary(5, 40, 24)
    none, encoder = encoded(tokenizer, "encoder-decoder", pair("a", "uma palavra " * 40), context=40)
    assert none is None
    assert encoder.bad_rows.counts == {"answer longer than the context": 1}


# The whole way


@pytest.mark.parametrize(("kind", "tokenizer"), [("decoder", byte_level()), ("encoder-decoder", unigram())])
def test_examples_are_prepared_without_a_prompt_on_both_sides(tmp_path: Path, kind: Kind, tokenizer: Tokenizer):
    data = written(tmp_path / "pairs.jsonl", [*PAIRS, {"passage": "x", "query": ""}])
    prepared = prepare_examples([str(data)], tmp_path / "out", tokenizer, kind=kind, validation_share=0.2)
    assert len(prepared.train) + len(prepared.validation) == len(PAIRS)
    assert 10 < len(prepared.validation) < len(PAIRS) / 2

    def prompts(store: ExampleStore) -> set[tuple[int, ...]]:
        examples = (store[number] for number in range(len(store)))
        return {tuple((one.tokens[~one.learned] if one.source is None else one.source).tolist()) for one in examples}

    assert not prompts(prepared.train) & prompts(prepared.validation)
    assert prepared.tokenizer.fingerprint == tokenizer.fingerprint
    report = prepared.report
    assert (report["kind"], report["rows"], report["bad_rows"]["empty document"]["count"]) == (kind, len(PAIRS), 1)
    sizes = sum(len(row["query"].encode()) for row in PAIRS)
    assert sum(report["split"][side]["learned_bytes"] for side in ("train", "validation")) == sizes
    assert holds_examples(tmp_path / "out")
    again = open_prepared_examples(tmp_path / "out")
    assert again.train.manifest == prepared.train.manifest
    assert [path.name for path in (tmp_path / "out").iterdir() if "zst" in path.name] == []


def test_a_prompt_stays_on_its_side_whatever_is_added(tmp_path: Path):
    few = prepare_examples([str(written(tmp_path / "a.jsonl", PAIRS))], tmp_path / "few", byte_level())
    more = [{"passage": f"Outro parágrafo {number}", "query": "sim"} for number in range(60)]
    many = prepare_examples([str(written(tmp_path / "b.jsonl", more + PAIRS))], tmp_path / "many", byte_level())
    held = [
        {tuple(store[number].tokens.tolist()) for number in range(len(store))}
        for store in (few.validation, many.validation)
    ]
    assert held[0] <= held[1]


def test_what_the_tokenizer_cannot_write_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"source": f"texto {number}", "target": "não 漢字"} for number in range(40)]
    tokenizer = unigram()
    data = written(tmp_path / "a.jsonl", rows)
    prepared = prepare_examples([str(data)], tmp_path / "out", tokenizer, kind="encoder-decoder", validation_share=0.3)
    unknown = int((prepared.train[0].tokens == tokenizer.unknown).sum())
    assert unknown
    assert prepared.report["unknown"] == 40 * unknown
    share = unknown / len(prepared.train[0].tokens)
    assert f"{share:.2%} of the tokens to learn stand for what the tokenizer cannot write" in capsys.readouterr().err


def test_what_cannot_be_split_or_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = written(tmp_path / "a.jsonl", [{"prompt": "o mesmo", "completion": str(n)} for n in range(9)])
    with pytest.raises(InputError, match="9 usable examples with too few different prompts"):
        prepare_examples([str(data)], tmp_path / "out", byte_level())
    assert not (tmp_path / "out").exists()
    long = written(tmp_path / "b.jsonl", [*PAIRS, {"passage": "p", "query": "muito " * 200}])
    prepare_examples([str(long)], tmp_path / "out", byte_level(), context=24)
    told = capsys.readouterr().err
    assert "left out 1 row: answer longer than the context" in told
    assert "cut to fit 24 tokens: the beginning of the prompt in " in told
    assert f" of {len(PAIRS) + 1} examples\n" in told
    with pytest.raises(InputError, match="holds no prepared examples"):
        open_prepared_examples(tmp_path)
