"""What a person names: folders with links, archives, other formats, and files whose names say what they are for."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from lavra.core.errors import InputError
from lavra.data.examples.rows import read_examples
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import LOOP, OTHER_VALIDATION, QUERIES, TEST_FILE, VALIDATION_FILE, BadRows


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "prompt": text, "completion": "c"}) + "\n" for text in texts))
    else:
        path.write_text("\n".join(texts))
    return path


def sides(*locations: Path, validation: Sequence[Path] = ()) -> tuple[list[str], list[str], BadRows]:
    """Return what is trained on, what is held out, and what was told."""
    found = BadRows()
    rows = list(read_rows([str(one) for one in locations], validation=[str(one) for one in validation], bad_rows=found))
    trained = [row.text for row in rows if not row.is_validation]
    validation_set = [row.text for row in rows if row.is_validation]
    assert [row.is_validation for row in rows] == sorted(row.is_validation for row in rows)
    return trained, validation_set, found


# Links


def test_linked_folders_are_read_and_loops_are_told(tmp_path: Path) -> None:
    write(tmp_path / "real" / "sub" / "b.txt", "b")
    write(tmp_path / "data" / "a.txt", "a")
    (tmp_path / "data" / "more").symlink_to("../real", target_is_directory=True)
    (tmp_path / "real" / "sub" / "back").symlink_to("../../data", target_is_directory=True)
    (tmp_path / "data" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "data" / "gone.txt").symlink_to("nowhere.txt")
    found = BadRows()
    rows = list(read_rows([str(tmp_path / "data")], bad_rows=found))
    assert [row.text for row in rows] == ["a", "b"]
    assert len(found.left_out[LOOP]) == 2
    assert found.left_out["a link to nothing"] == [str(tmp_path / "data" / "gone.txt")]
    with pytest.raises(InputError, match=r"gone\.txt is not read: a link to nothing"):
        list(read_rows([str(tmp_path / "data")], on_bad_row="strict"))


def test_a_file_reached_by_two_links_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.txt", "a")
    for name in ("one", "two"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to("../real", target_is_directory=True)
    assert [row.text for row in read_rows([str(tmp_path / "data")], on_bad_row="strict")] == ["a"]


# Archives and other formats


def test_the_files_of_an_archive_are_read_as_those_of_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ("b/2.txt", "b/1.md", "a.jsonl", "c.png", "__MACOSX/a.txt", "README.md"):
            archive.writestr(name, '{"text": "linha"}\n' if name == "a.jsonl" else name)
    found = BadRows()
    rows = list(read_rows([str(tmp_path / "z.zip")], bad_rows=found))
    assert [(row.text, row.source, row.place) for row in rows] == [
        ("linha", "z", f"{tmp_path}/z.zip/a.jsonl:1"),
        ("b/1.md", "z/b", f"{tmp_path}/z.zip/b/1.md"),
        ("b/2.txt", "z/b", f"{tmp_path}/z.zip/b/2.txt"),
    ]
    assert sum(map(len, found.left_out.values())) == 3
    write(tmp_path / "folder" / "x.txt", "x")
    (tmp_path / "z.zip").rename(tmp_path / "folder" / "z.zip")
    assert len(list(read_rows([str(tmp_path / "folder")]))) == 4


def test_a_damaged_archive_and_one_without_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no archive")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.png", "png")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "texto " * 1000)
    data = bytearray((tmp_path / "c.zip").read_bytes())
    data[40:50] = b"\xff" * 10
    (tmp_path / "c.zip").write_bytes(data)
    for name, message in [("a", "cannot be read as an archive"), ("b", "holds no file"), ("c", "is damaged")]:
        with pytest.raises(InputError, match=message) as caught:
            list(read_rows([str(tmp_path / f"{name}.zip")]))
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.pdf", "pdftotext"), ("a.docx", "pandoc"), ("a.xlsx", "CSV"), ("a.tar.gz", "tar xf"), ("a.bin", ".jsonl")],
)
def test_other_formats_are_refused_with_what_to_do(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"data")
    with pytest.raises(InputError, match="in no format") as caught:
        list(read_rows([str(tmp_path / name)]))
    assert remedy in caught.value.remedy


def test_addresses_are_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match="an address on the network") as caught:
        list(read_rows(["https://example.org/a.txt"]))
    assert "curl -LO https://example.org/a.txt" in caught.value.remedy


# What names say


@pytest.mark.parametrize(
    ("train", "dev", "test"),
    [
        ("train.jsonl", "dev.jsonl", "test.jsonl"),
        ("news-train.jsonl", "news-valid.jsonl", "news-test.jsonl"),
        ("train-00000-of-00002.jsonl", "validation-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"),
        ("train/a.txt", "val/b.txt", "test/c.txt"),
        ("pt.train.txt", "pt.dev.txt", "pt.test.txt"),
        ("corpus.jsonl", "dev.jsonl", "test.jsonl"),
    ],
)
def test_names_say_what_is_for_validation_and_what_for_testing(tmp_path: Path, train: str, dev: str, test: str) -> None:
    folder = tmp_path / "test"  # the folder that is named says nothing
    for name in (train, dev, test):
        write(folder / name, name)
    files = [folder / name for name in (test, dev, train)]
    for locations in ([folder], files):
        trained, validation_set, found = sides(*locations)
        assert (trained, validation_set) == ([train], [dev])
        assert found.left_out[TEST_FILE] == [str(folder / test)]
        assert found.examples[VALIDATION_FILE] == [(str(folder / dev), "")]
        assert "never trained on" in found.summary()


@pytest.mark.parametrize(
    "names",
    [
        ("test.txt", "intro.txt"),
        ("test.jsonl",),
        ("a-test.txt", "b-train.txt"),
        ("latest.txt", "training_day.txt"),
        ("value.jsonl", "contest.jsonl"),
    ],
)
def test_other_names_say_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / "pages" / name, name)
    trained, validation_set, found = sides(tmp_path / "pages")
    assert (sorted(trained), validation_set, found.left_out) == (sorted(names), [], {})


def test_names_say_nothing_to_who_does_not_train(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path / "data" / name, name)
    assert [row.text for row in read_rows([str(tmp_path / "data")])] == ["test.jsonl", "train.jsonl"]


def test_validation_data_that_is_named_goes_before_names(tmp_path: Path) -> None:
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl"):
        write(tmp_path / "data" / name, name)
    mine = write(tmp_path / "mine.txt", "mine")
    trained, validation_set, found = sides(tmp_path / "data", validation=[mine])
    assert (trained, validation_set) == (["train.jsonl"], ["mine"])
    assert set(found.left_out) == {TEST_FILE, OTHER_VALIDATION}
    trained, validation_set, _ = sides(tmp_path / "data", validation=[tmp_path / "data" / "test.jsonl"])
    assert (trained, validation_set) == (["train.jsonl"], ["test.jsonl"])
    trained, validation_set, _ = sides(tmp_path / "data" / "train.jsonl", mine, validation=[mine])
    assert (trained, validation_set) == (["train.jsonl"], ["mine"])
    with pytest.raises(InputError, match="the same files"):
        sides(mine, validation=[mine])
    with pytest.raises(InputError, match="files, folders and globs only"):
        list(read_rows([str(mine)], validation=["-"]))


def test_of_a_collection_for_retrieval_only_the_corpus_is_read(tmp_path: Path) -> None:
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        write(tmp_path / "beir" / name, name)
    trained, validation_set, found = sides(tmp_path / "beir")
    assert (trained, validation_set) == (["corpus.jsonl"], [])
    assert len(found.left_out[QUERIES]) == 2


def test_examples_have_validation_files_too(tmp_path: Path) -> None:
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl"):
        write(tmp_path / "data" / name, name)
    rows = read_examples([str(tmp_path / "data")], BadRows(), validation=())
    assert [(row.prompt, row.is_validation) for row in rows] == [("train.jsonl", False), ("dev.jsonl", True)]
