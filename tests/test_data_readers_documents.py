"""Rows in: every format and compression gives the same documents, and what cannot be used is counted and named."""

import csv
import gzip
import io
import json
import lzma
import sys
import types
import unicodedata
from pathlib import Path

import pytest
import zstandard

from lavra.core.errors import InputError
from lavra.data.readers import tables as columns
from lavra.data.readers import text_files
from lavra.data.readers.compressed import BytesRead, open_binary
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import _REMEDIES, REPEATED_NAME, BadRows

TEXTS = ['A primeira linha.\nE a segunda: "citação".', "Só isto, com vírgula\te tabulação", "x" * 200_000]


def pack(path: Path, data: bytes) -> Path:
    compress = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(compress.get(path.suffix, bytes)(data))
    return path


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()


def as_delimited(texts: list[str], delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["id", "text"])
    writer.writerows([str(n), text] for n, text in enumerate(texts))
    return out.getvalue().encode()


def as_parquet(texts: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), out)
    return out.getvalue()


ENCODINGS = {
    ".jsonl": as_jsonl,
    ".csv": lambda texts: as_delimited(texts, ","),
    ".tsv": lambda texts: as_delimited(texts, "\t"),
    ".parquet": as_parquet,
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst", ".xz"])
@pytest.mark.parametrize("ending", list(ENCODINGS))
def test_every_format_gives_the_same_documents(tmp_path: Path, ending: str, packing: str) -> None:
    path = pack(tmp_path / f"corpus{ending}{packing}", ENCODINGS[ending](TEXTS))
    rows = list(read_rows([str(path)]))
    assert [row.text for row in rows] == TEXTS
    assert {row.source for row in rows} == {"corpus"}
    assert [str(row.fields["id"]) for row in rows] == ["0", "1", "2"]
    assert rows[0].place.startswith(str(path))


def test_of_parquet_only_the_wanted_columns_are_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    columns = {
        "text": ["um", "dois"],
        "image": pyarrow.array([b"\xff" * 100] * 2, pyarrow.binary()),
        "when": pyarrow.array([1_700_000_000_000_000_001] * 2, pyarrow.timestamp("ns")),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff" * 100)
    found = BadRows()
    (path).write_bytes(data[:place] + b"\x00" * 100 + data[place + 100 :])
    rows = list(read_rows([str(path)], wanted=("when",), bad_rows=found))
    assert [dict(row.fields) for row in rows] == [{"when": "2023-11-14 22:13:20.000000001"}] * 2
    assert found.report()["columns"] == [{"taken": ["text"], "ignored": ["when", "image"], "files": [str(path)]}]


def test_of_two_columns_of_one_name_the_last_is_read_and_it_is_told(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table([["um"], ["dois"]], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = BadRows()
    assert [row.text for row in read_rows([str(tmp_path / "a.parquet")], bad_rows=found)] == ["dois"]
    assert found.examples == {REPEATED_NAME: [(str(tmp_path / "a.parquet"), "'text' is given twice")]}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst", ".xz"])
@pytest.mark.parametrize("ending", [".txt", ".md"])
def test_a_text_file_is_one_document(tmp_path: Path, ending: str, packing: str) -> None:
    path = pack(tmp_path / f"livro{ending}{packing}", TEXTS[0].encode())
    (row,) = read_rows([str(path)])
    assert (row.text, row.source, row.place) == (TEXTS[0], "livro", str(path))


def test_folders_are_read_in_sorted_order_and_text_files_of_one_folder_are_one_source(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.md", "a.txt", "z.txt", "b/c/3.txt", ".hidden.txt", "d.pdf"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(name)
    found = BadRows()
    rows = list(read_rows([str(tmp_path / "corpus")], bad_rows=found))
    assert [row.text for row in rows] == ["a.txt", "z.txt", "b/1.md", "b/2.txt", "b/c/3.txt"]
    assert [row.source for row in rows] == ["corpus", "corpus", "corpus/b", "corpus/b", "corpus/b/c"]
    assert {reason: len(paths) for reason, paths in found.left_out.items()} == {
        "hidden, though in a data format": 1,
        ".pdf is no data format (turn it into text first: pdftotext FILE.pdf FILE.txt)": 1,
    }


def test_a_readme_beside_data_is_left_out_and_said_so_but_a_page_among_pages_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, pages = tmp_path / "data", tmp_path / "pages"
    for folder in (data, pages):
        folder.mkdir()
    pack(data / "corpus.jsonl.gz", as_jsonl(["um", "dois"]))
    (data / "README.txt").write_text("about the data")
    for name in ("README.md", "page.md"):
        (pages / name).write_text(name)
    assert [row.text for row in read_rows([str(data)])] == ["um", "dois"]
    assert "README.txt" in capsys.readouterr().err
    assert [row.text for row in read_rows([str(pages)])] == ["README.md", "page.md"]


def test_globs_and_lists_of_files_keep_sources_together_and_read_nothing_twice(tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/2.txt", "b/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    by_glob = list(read_rows([str(tmp_path / "*" / "*.txt")]))
    by_list = list(read_rows([str(path) for path in sorted(tmp_path.rglob("*.txt"))] + [str(tmp_path / "a/1.txt")]))
    assert [row.text for row in by_glob] == [row.text for row in by_list] == ["a/1.txt", "a/2.txt", "b/1.txt"]
    assert [row.source for row in by_list] == ["a", "a", "1"]


@pytest.mark.parametrize(
    ("content", "texts"), [(b'{"text": "um"}\n{"text": "dois"}\n', ["um", "dois"]), (b"um\ndois", ["um\ndois"])]
)
def test_standard_input_is_jsonl_or_text(monkeypatch: pytest.MonkeyPatch, content: bytes, texts: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    assert [row.text for row in read_rows(["-"])] == texts


def test_bad_rows_are_counted_with_file_and_line_and_the_good_ones_are_read(tmp_path: Path) -> None:
    lines = [
        b'{"text": "boa"}',
        b'{"text": ""}',
        b'{"text": "a\\u0000b"}',
        b'{"titulo": "sem texto"}',
        b'{"text": "cortada',
        b'{"text": "' + "Привет, мир".encode("koi8-r") * 30 + b'"}',
        b'{"text": 7}',
        b'{"text": null}',
        b'{"text": "meio par \\ud800"}',
        b"[1, 2]",
        b"",
        b'{"text": "outra"}',
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = BadRows()
    rows = list(read_rows([str(path)], bad_rows=found))
    assert [(row.text, row.place) for row in rows] == [("boa", f"{path}:1"), ("outra", f"{path}:12")]
    assert dict(found.counts) == {
        "empty document": 2,
        "NUL byte": 1,
        "missing column": 1,
        "bad JSON": 2,
        "broken UTF-8": 2,
        "not text": 1,
    }
    assert found.report()["bad_rows"]["broken UTF-8"]["examples"] == [f"{path}:6: byte 0xf0", f"{path}:9"]
    assert "titulo" in found.report()["bad_rows"]["missing column"]["examples"][0]


def test_only_the_first_five_places_of_a_kind_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": ""}\n' * 9 + '{"text": "boa"}\n')
    found = BadRows()
    list(read_rows([str(path)], bad_rows=found))
    assert found.counts["empty document"] == 9
    assert len(found.examples["empty document"]) == 5
    assert f"{path}:5, ..." in found.summary()


@pytest.mark.parametrize(
    ("name", "content", "message", "remedy"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ""}', "a.jsonl:2: empty document", "--on-bad-row skip"),
        ("a.jsonl", b'{"text": "a"}\n{nao}', "a.jsonl:2: bad JSON", "one JSON object per line"),
        ("a.jsonl", b'{"body": "a"}', "a.jsonl:1: missing column (no 'text' among body)", "--text-column"),
        ("a.csv", b"titulo,corpo\na,b", "a.csv:1: missing column (no 'text' among titulo, corpo)", "--text-column"),
        (
            "a.txt",
            b"line\n" + "Привет".encode("cp1251"),
            "a.txt:2: broken UTF-8 (byte 0xcf)",
            "--encoding windows-1251",
        ),
        ("a.txt", "texto".encode("utf-16-le"), "a.txt: NUL byte", "UTF-16"),
        ("a.csv", b"text\n" + "Привет".encode("koi8-r") + b"\n", "a.csv:2: broken UTF-8", "iconv"),
    ],
)
def test_on_bad_row_error_names_the_place_and_the_remedy(
    tmp_path: Path, name: str, content: bytes, message: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_rows([str(tmp_path / name)], on_bad_row="error"))
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_command_without_options_of_reading_advises_none() -> None:
    for kind in _REMEDIES:
        for refuse in (BadRows("strict", options=False).add, BadRows("strict", options=False).change):
            with pytest.raises(InputError) as caught:
                refuse(kind, "a:1")
            assert caught.value.remedy
            assert "--" not in caught.value.remedy


def test_what_is_missing_or_holds_nothing_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"png")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "columns.csv").write_text("corpo\na\n")
    for location, message in [
        ("nowhere.txt", "nowhere.txt does not exist"),
        ("empty", "empty is empty"),
        ("pictures", "holds no data: 1 file, none of them"),
        ("pictures/a.png", "is in no format that lavra reads"),
        ("*.none", "no file matches"),
        ("blank.txt", "empty document"),
        ("columns.csv", "no 'text' among corpo"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            list(read_rows([str(tmp_path / location)]))
        assert caught.value.remedy
    with pytest.raises(InputError, match="no data is named"):
        list(read_rows([]))


@pytest.mark.parametrize("packing", [".gz", ".zst", ".xz"])
def test_a_cut_off_archive_is_an_error_that_names_it(tmp_path: Path, packing: str) -> None:
    path = pack(tmp_path / f"corpus.txt{packing}", "".join(f"linha {n}\n" for n in range(20_000)).encode())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"corpus.txt{packing} is damaged or cut short"):
        list(read_rows([str(path)]))


def test_archives_of_several_members_are_read_to_their_end(tmp_path: Path) -> None:
    pack(tmp_path / "a.txt.gz", b"")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"um ") + gzip.compress(b"dois"))
    frame = zstandard.ZstdCompressor().compress
    (tmp_path / "b.txt.zst").write_bytes(frame(b"um ") + frame(b"dois"))
    for name in ("a.txt.gz", "b.txt.zst"):
        assert [row.text for row in read_rows([str(tmp_path / name)])] == ["um dois"]


def test_a_large_text_file_is_cut_at_paragraphs_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LARGEST_DOCUMENT", 1000)
    text = "\n\n".join(f"Parágrafo {n}: não há pressa.\nSegunda linha." for n in range(200))
    (tmp_path / "a.txt").write_text(text)
    rows = list(read_rows([str(tmp_path / "a.txt")]))
    assert "".join(row.text for row in rows) == text
    assert all(row.text.endswith("\n\n") and len(row.text.encode()) <= 1000 for row in rows[:-1])
    first_line = int(rows[1].place.rsplit(":", 1)[1])
    assert text.splitlines()[first_line - 1] == rows[1].text.splitlines()[0]


def test_a_large_text_without_any_white_space_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST_DOCUMENT", 1000)
    text = "aé漢🙂" * 700
    (tmp_path / "a.txt").write_text(text)
    rows = list(read_rows([str(tmp_path / "a.txt")], on_bad_row="error"))
    assert "".join(row.text for row in rows) == text
    assert len(rows) > 5


def test_a_line_too_long_for_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "LONGEST_LINE", 1000)
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(["um", "x" * 5000, "dois"]))
    found = BadRows()
    assert [row.text for row in read_rows([str(tmp_path / "a.jsonl")], bad_rows=found)] == ["um", "dois"]
    assert found.examples == {"too long for memory": [(f"{tmp_path / 'a.jsonl'}:2", "")]}


def test_normalisation_composes_accents_only_when_asked(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "ação")
    (tmp_path / "a.txt").write_text(apart)
    assert next(read_rows([str(tmp_path / "a.txt")])).text == apart
    assert next(read_rows([str(tmp_path / "a.txt")], normalize=True)).text == "ação"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, content in [("a.txt", "olá"), ("a.jsonl", '{"text": "olá"}'), ("a.csv", "text\nolá\n")]:
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert [row.text for row in read_rows([str(tmp_path / name)], on_bad_row="error")] == ["olá"]


def test_progress_counts_the_bytes_on_disk(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.jsonl.gz", as_jsonl(["palavra"] * 1000))
    counter = BytesRead()
    list(read_rows([str(path)], counter=counter))
    assert counter.done == path.stat().st_size
    with open_binary(path) as stream:
        assert stream.readline().startswith(b'{"id": 0')


def test_a_hub_dataset_needs_the_library_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the datasets library") as caught:
        list(read_rows(["hf:someone/corpus"]))
    assert caught.value.remedy == "pip install datasets"


def test_a_hub_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.data.readers.documents.why_no_hub", lambda: None)
    asked = []

    def load_dataset(name: str, split: str, streaming: bool) -> list[dict[str, str]]:
        asked.append((name, split, streaming))
        return [{"text": "um"}, {"text": ""}, {"text": "dois"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    rows = list(read_rows(["hf:someone/corpus:validation"]))
    assert [(row.text, row.source, row.place) for row in rows] == [
        ("um", "someone/corpus", "hf:someone/corpus:validation:1"),
        ("dois", "someone/corpus", "hf:someone/corpus:validation:3"),
    ]
    assert asked == [("someone/corpus", "validation", True)]
