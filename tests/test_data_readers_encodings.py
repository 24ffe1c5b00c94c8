"""Encodings: found by their marks, guessed where that is safe, named where it is not; never in silence."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.readers import encodings
from lavra.data.readers.documents import read_rows
from lavra.data.readers.encodings import as_utf8
from lavra.data.readers.rows import BROKEN_UTF8, BY_MARK, WINDOWS_1252, BadRows

TEXT = "Não há caminho – disse-lhe a avó. O coração faz-se ao andar: ação, pães, “d’água”.\n" * 3
RUSSIAN = "Все счастливые семьи похожи друг на друга.\n" * 3


def files(folder: Path, text: str, encoding: str) -> list[Path]:
    """The same text in every format that holds characters."""
    contents = {
        "a.txt": text,
        "a.md": text,
        "a.csv": f'id,text\n1,"{text}"\n',
        "a.tsv": f'id\ttext\n1\t"{text.replace(chr(34), "")}"\n2\t"a\tb"\n',
        "a.jsonl": json.dumps({"text": text}, ensure_ascii=False) + "\n",
        "a.json": json.dumps([{"text": text}], ensure_ascii=False),
        "a.html": f"<p>{text}</p>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content.encode(encoding))
    return [folder / name for name in contents]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8", "cp1252"])
def test_every_format_is_read_in_the_encoding_that_it_has(tmp_path: Path, encoding: str) -> None:
    for path in files(tmp_path, TEXT, encoding):
        found = BadRows()
        text = next(read_rows([str(path)], bad_rows=found)).text
        assert text.strip() == (TEXT.strip() if path.suffix != ".html" else " ".join(TEXT.split())), path.name
        assert not found.counts
        assert list(found.changes) == ([WINDOWS_1252] if encoding == "cp1252" else [])
        assert list(found.notes) == ([BY_MARK] if encoding in ("utf-16", "utf-32") else [])


def test_a_guess_is_said_with_its_place_and_strict_makes_it_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"plain\nlinha com a\xe7\xe3o\n")
    found = BadRows()
    list(read_rows([str(tmp_path / "a.txt")], bad_rows=found))
    assert "read as Windows-1252" in found.summary()
    assert f"(byte 0xe7): {tmp_path / 'a.txt'}:2" in found.summary()
    with pytest.raises(InputError, match=r"a\.txt:2: read as Windows-1252") as caught:
        list(read_rows([str(tmp_path / "a.txt")], on_bad_row="strict"))
    assert "--encoding windows-1252" in caught.value.remedy
    (row,) = read_rows([str(tmp_path / "a.txt")], on_bad_row="strict", encoding="latin-1")
    assert row.text == "plain\nlinha com ação\n"


def test_utf8_with_some_latin_letters_between_keeps_both(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("avó e ".encode() + "maçã".encode("latin-1") + " e pão".encode())
    assert next(read_rows([str(tmp_path / "a.txt")])).text == "avó e maçã e pão"


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r"])
def test_other_alphabets_are_not_guessed_but_read_when_they_are_named(tmp_path: Path, encoding: str) -> None:
    for path in files(tmp_path, RUSSIAN, encoding):
        if path.suffix in (".txt", ".md"):
            with pytest.raises(InputError, match="broken UTF-8") as caught:
                list(read_rows([str(path)]))
            assert "--encoding" in caught.value.remedy
        row = next(read_rows([str(path)], on_bad_row="strict", encoding=encoding))
        assert row.text.split() == RUSSIAN.split()


def test_what_the_named_encoding_cannot_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "boa"}\n{"text": "\x80\x80"}\n{"text": "outra"}\n')
    found = BadRows()
    texts = [row.text for row in read_rows([str(tmp_path / "a.jsonl")], encoding="ascii", bad_rows=found)]
    assert texts == ["boa", "outra"]
    assert found.counts == {BROKEN_UTF8: 1}


@pytest.mark.parametrize("name", ["klingon", "rot13", "hex"])
def test_an_encoding_that_there_is_not_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match="there is no encoding"):
        list(read_rows([str(tmp_path / "a.txt")], encoding=name))


def test_a_page_of_html_is_read_in_the_encoding_that_it_declares(tmp_path: Path) -> None:
    page = f'<html><head><meta charset="windows-1251"><title>Толстой</title></head><body>{RUSSIAN}</body></html>'
    (tmp_path / "a.html").write_bytes(page.encode("cp1251"))
    (row,) = read_rows([str(tmp_path / "a.html")], on_bad_row="strict")
    assert row.text.split() == ["Толстой", *RUSSIAN.split()]


@given(text=st.text(max_size=60), size=st.integers(1, 9), encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_blocks_of_any_size_give_the_whole_text(text: str, size: int, encoding: str) -> None:
    before, encodings._BLOCK = encodings._BLOCK, size
    try:
        data = text.encode(encoding, "surrogatepass") if encoding != "utf-8" else text.encode()
        found = as_utf8(io.BytesIO(data), "a.txt", BadRows(policy="strict")).read()
    finally:
        encodings._BLOCK = before
    assert found == text.removeprefix("\ufeff").encode() or encoding != "utf-8"
    assert found.decode() == (text if encoding != "utf-8" else text.removeprefix("\ufeff"))
