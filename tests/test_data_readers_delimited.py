"""CSV and TSV: the separator is found, quotes spoil no row but their own, and rows that do not fit are counted."""

import csv
import io
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.examples.labelled import number_in
from lavra.data.readers import delimited
from lavra.data.readers.delimited import read_delimited
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import (
    BAD_CSV,
    FEWER_FIELDS,
    REPEATED_NAME,
    ROWS_IN_QUOTES,
    SEPARATOR,
    STRAY_QUOTE,
    BadRows,
)
from lavra.tasks.regression import as_number


def read(content: str, kind: str = "csv", column: str | None = "text") -> tuple[list[dict[str, str]], BadRows]:
    found = BadRows()
    stream = io.BufferedReader(io.BytesIO(content.encode()))  # pyright: ignore[reportArgumentType]
    return [dict(fields) for fields, _ in read_delimited(stream, "a", kind, column, found)], found


def texts(content: str, kind: str = "csv") -> tuple[list[str], BadRows]:
    rows, found = read(content, kind)
    return [row.get("text", "") for row in rows], found


ROWS = "".join(f"{number}\tlinha {number}\n" for number in range(4, 60))


def test_a_stray_quote_in_a_tsv_is_a_character() -> None:
    got, found = texts(f'id\ttext\n1\t"um dois\n2\ttres\n3\tquatro "cinco" seis"\n{ROWS}', "tsv")
    assert got[:3] == ['"um dois', "tres", 'quatro "cinco" seis"']
    assert len(got) == 59
    assert found.report() == BadRows().report()


@pytest.mark.parametrize("closing", ['"cinco" seis', '"cinco"', 'cinco"', "cinco"])
def test_a_stray_quote_in_a_csv_spoils_one_row_and_is_said(closing: str) -> None:
    lines = ROWS.replace("\t", ",")
    got, found = texts(f'id,text\n1,"um dois\n2,tres\n3,{closing}\n{lines}')
    assert got[:2] == ['"um dois', "tres"]
    assert len(got) == 59
    assert found.examples[STRAY_QUOTE][0] == ("a:2", "")
    found = BadRows(policy="strict")
    stream = io.BufferedReader(io.BytesIO(b'id,text\n1,"um\n2,dois\n'))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="a:2: quote that is never closed"):
        list(read_delimited(stream, "a", "csv", "text", found))


def test_lines_between_quotes_that_might_be_rows_are_told() -> None:
    rows, found = read('text,rotulo\n"Ele disse,bom\num,mau\nnunca",bom\n"dois\ntres, e quatro, e cinco",mau\n')
    assert [row["rotulo"] for row in rows] == ["bom", "mau"]
    assert found.examples == {ROWS_IN_QUOTES: [("a:2", "3 lines")]}


def test_inches_are_no_quotes() -> None:
    got, found = texts('id,text\n1,um tubo de 5" liso\n2,outro\n3,de 3" também\n')
    assert got == ['um tubo de 5" liso', "outro", 'de 3" também']
    assert not found.changes


def test_more_fields_than_the_header_are_counted_with_their_line() -> None:
    got, found = texts("id,text\n1,um, dois\n2,tres\n3,quatro,,\n")
    assert got == ["tres", "quatro"]
    assert found.examples == {BAD_CSV: [("a:2", "3 fields, and the header has 2")]}
    assert found.bytes_left_out == len("1,um, dois\n")


def test_fewer_fields_and_a_name_that_heads_two_columns_are_said() -> None:
    rows, found = read("text,id,text\num,1,dois\ntres,2\n")
    assert rows == [{"text": "dois", "id": "1"}, {"text": "tres", "id": "2"}]
    assert found.examples == {
        REPEATED_NAME: [("a:1", "'text' heads 2 columns")],
        FEWER_FIELDS: [("a:3", "2 fields, and the header has 3")],
    }


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_of_a_spreadsheet_is_found_and_said(separator: str) -> None:
    lines = [["id", "nota", "text"], ["1", "1,5", "um, dois"], ["2", "2,25", f"a{separator}b\nc"]]
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows(lines)
    rows, found = read(out.getvalue())
    assert rows == [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert found.examples == {SEPARATOR: [("a", repr(separator))]}


def test_excels_own_first_line_names_the_separator() -> None:
    rows, _ = read("sep=|\r\nid|text\r\n1|um\r\n")
    assert rows == [{"id": "1", "text": "um"}]


def test_one_column_of_text_with_separators_in_it_is_one_column() -> None:
    got, found = texts('text\n"um; dois, tres"\nquatro; cinco\n')
    assert got == ["um; dois, tres", "quatro; cinco"]
    assert not found.notes


def test_a_wanted_column_decides_between_separators() -> None:
    rows, _ = read("a,b,c;text\n1,2,3;um\n")
    assert rows == [{"a,b,c": "1,2,3", "text": "um"}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('id\ttext\n1\t"Sim!"\n2\tele\n3\tela\n4\teles\n', ['"Sim!"', "ele", "ela", "eles"]),
        ('id\ttext\n1\t"a\tb"\n2\tc\n', ["a\tb", "c"]),
        ('id\ttext\n1\t"a ""b"" c"\n2\tc\n', ['a "b" c', "c"]),
        ('id\ttext\n1\t"a"\n2\t"b"\n3\t"c"\n4\t"d"\n', ["a", "b", "c", "d"]),
    ],
)
def test_quotes_of_a_tsv_are_text_unless_it_is_plainly_quoted(content: str, expected: list[str]) -> None:
    assert texts(content, "tsv")[0] == expected


fields = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=8
)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(fields, fields), min_size=1, max_size=8), separator=st.sampled_from(",;|"))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], separator: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("note", "text"), *rows])
    content = out.getvalue()
    got, found = read(content)
    if STRAY_QUOTE not in found.changes:
        assert [(row["note"], row["text"]) for row in got] == rows
    else:  # rows that look like rows within quotes
        assert any(first.strip().isdigit() for first, _ in rows)


def test_a_quote_that_is_never_closed_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_LONGEST_FIELD", 500)
    (tmp_path / "a.csv").write_text('id,text\n1,"um\n' + "2,dois\n" * 1000)
    found = BadRows()
    assert len(list(read_rows([str(tmp_path / "a.csv")], bad_rows=found))) == 1001
    assert found.changes == {STRAY_QUOTE: 1}


def test_lines_that_end_with_a_carriage_return_only_are_told() -> None:
    got, found = texts("id,text\r1,um\r2,dois\r")
    assert got == []
    assert found.examples == {BAD_CSV: [("a:1", "lines that end with a carriage return only")]}


def test_decimal_commas_of_a_spreadsheet_are_numbers_and_doubtful_ones_are_not() -> None:
    rows, _ = read('text;nota\num;4,5\ndois; 0,125 \ntres;"1,234"\nquatro;3.5\n')
    numbers = [number_in(row["nota"]) for row in rows]
    assert numbers == pytest.approx([4.5, 0.125, math.nan, 3.5], nan_ok=True)
    assert as_number("-2,25") == -2.25
    with pytest.raises(InputError, match="'1,234' is no number"):
        as_number("1,234")
