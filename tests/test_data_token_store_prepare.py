"""From text to token stores: what goes in comes out, on both sides, and nothing is left behind when it fails."""

import io
import json
import random
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from lavra.core.errors import InputError
from lavra.data.readers.rows import UNKNOWN_TOKEN
from lavra.data.token_store.prepare import open_prepared, prepare
from lavra.data.tokenizers.tokenizer import Tokenizer

TEXTS = [text for _, text in sorted(topics.items()) if text.strip()]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS) + "{broken\n")
    return path


def test_what_goes_in_comes_out_on_one_side_or_the_other(corpus: Path, tmp_path: Path) -> None:
    prepared = prepare([str(corpus)], tmp_path / "out", vocabulary_size=512)
    stores = (prepared.train, prepared.validation)
    assert sorted(text for store in stores for text in store.texts()) == sorted(TEXTS)
    assert prepared.tokenizer.vocabulary_size == 512
    for store in stores:
        store.verify()
        decoded = [prepared.tokenizer.decode(store.document(number)[:-1]) for number in range(len(store))]
        assert decoded == list(store.texts())
    report = prepared.report
    assert report["rows"] == len(TEXTS)
    assert report["bad_rows"]["bad JSON"]["count"] == 1
    assert report["bytes"] == prepared.train.manifest.bytes + prepared.validation.manifest.bytes
    assert report["split"]["train"]["documents"] == len(prepared.train)
    assert report["tokenizer"]["tokens"] == sum(store.manifest.tokens - len(store) for store in stores)
    assert report["normalize"] is False
    assert open_prepared(tmp_path / "out").train.manifest == prepared.train.manifest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lavra.json",
        "report.json",
        "tokenizer",
        "train",
        "validation",
    ]


def test_the_same_text_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    one, two = (prepare([str(corpus)], tmp_path / name, vocabulary_size=400) for name in ("one", "two"))
    assert one.tokenizer.fingerprint == two.tokenizer.fingerprint
    assert one.train.manifest == two.train.manifest
    assert one.validation.manifest == two.validation.manifest


def test_adding_a_file_moves_no_document(tmp_path: Path) -> None:
    source = random.Random(0)
    texts = [" ".join(source.choices(["a", "casa", "de", "pedra", "do", "rio"], k=40)) + f" {n}" for n in range(900)]
    (tmp_path / "data").mkdir()
    validations = []
    for number, share in enumerate((texts[:500], texts[500:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in share)
        (tmp_path / "data" / f"{9 - number}.jsonl").write_text(lines)
        prepared = prepare([str(tmp_path / "data")], tmp_path / f"out-{number}", vocabulary_size=300)
        validations.append(set(prepared.validation.texts()))
    assert len(validations[0]) > 5
    assert validations[1] & set(texts[:500]) == validations[0]


def test_one_text_file_gives_both_sides(tmp_path: Path) -> None:
    text = "\n\n".join(TEXTS)
    (tmp_path / "input.txt").write_text(text)
    prepared = prepare([str(tmp_path / "input.txt")], tmp_path / "out")
    (head,), (tail,) = prepared.train.texts(), prepared.validation.texts()
    assert head + tail == text
    assert 0.02 < len(tail) / len(text) < 0.1
    assert prepared.train.manifest.sources[0].name == "input"


def test_standard_input_is_read_once_and_kept_in_between(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines.encode()))))
    prepared = prepare(["-"], tmp_path / "out", vocabulary_size=300)
    assert prepared.report["rows"] == len(TEXTS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lavra.json",
        "report.json",
        "tokenizer",
        "train",
        "validation",
    }


def test_a_given_tokenizer_is_used_and_the_size_may_be_a_function_of_the_text(corpus: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS[:10], 300)
    given = prepare([str(corpus)], tmp_path / "given", tokenizer=tokenizer, vocabulary_size=9999)
    assert given.train.manifest.tokenizer_fingerprint == tokenizer.fingerprint
    asked = []
    sized = prepare([str(corpus)], tmp_path / "sized", vocabulary_size=lambda size: asked.append(size) or 350)
    assert sized.tokenizer.vocabulary_size == 350
    assert asked == [sum(len(text.encode()) for text in TEXTS)]


def test_held_out_texts_are_the_originals_with_a_lossy_tokenizer(corpus: Path, tmp_path: Path) -> None:
    inner = Library(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "the": 2}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    prepared = prepare([str(corpus)], tmp_path / "out", tokenizer=Tokenizer(inner, "[SEP]"))
    assert set(prepared.validation.texts()) <= set(TEXTS)
    assert prepared.report["tokenizer"]["unknown_rate"] > 0.5
    assert [*prepared.report["changed"]] == [UNKNOWN_TOKEN]
    good = write_rows(tmp_path / "good.jsonl", LINES)
    with pytest.raises(InputError, match="text that the tokenizer cannot write"):
        prepare([str(good)], tmp_path / "strict", tokenizer=prepared.tokenizer, on_bad_row="strict")


def test_normalisation_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\u0303o e pa\u0303o\n\n" * 200)
    prepared = prepare([str(tmp_path / "a.txt")], tmp_path / "out", normalize=True, vocabulary_size=300)
    assert prepared.report["normalize"] is True
    assert next(iter(prepared.validation.texts())).startswith("ão e pão")


def test_failures_leave_nothing_behind(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("olá")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    for locations, options, message in [
        ([str(corpus)], {"on_bad_row": "error"}, "bad JSON"),
        ([str(tmp_path / "short.txt")], {}, "cannot be split into training and validation data"),
        ([str(tmp_path / "nowhere")], {}, "does not exist"),
        ([str(corpus)], {"validation_share": 0.9}, "validation share"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            prepare(locations, tmp_path / "new", vocabulary_size=300, **options)
        assert caught.value.remedy
    with pytest.raises(InputError, match="no folder that lavra made"):
        prepare([str(corpus)], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "out", "short.txt"]
    with pytest.raises(InputError, match="holds no prepared text"):
        open_prepared(tmp_path / "out")


def write_rows(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


LINES = [f"O documento número {number} fala de rios, pontes e casas." for number in range(120)]


@pytest.mark.parametrize("by_name", [True, False])
def test_given_validation_data_is_all_that_is_held_out(tmp_path: Path, by_name: bool) -> None:
    train = write_rows(tmp_path / "data" / "train.jsonl", LINES[:80])
    validation_set = write_rows(tmp_path / ("data" if by_name else "other") / "dev.jsonl", [*LINES[80:100], LINES[0]])
    write_rows(tmp_path / "data" / "test.jsonl", LINES[100:])
    prepared = prepare(
        [str(train.parent)], tmp_path / "out", vocabulary_size=300, validation=() if by_name else [str(validation_set)]
    )
    assert list(prepared.train.texts()) == LINES[:80]
    assert list(prepared.validation.texts()) == [*LINES[80:100], LINES[0]]
    report = prepared.report
    assert report["split"]["validation_given"] is True
    assert report["changed"]["training text that is also in the validation data"] == {
        "count": 1,
        "examples": [f"{train}:1"],
    }
    assert list(report["left_out"]) == ["test data by their names, never trained on"]
    with pytest.raises(InputError, match="also in the validation data"):
        prepare([str(train.parent)], tmp_path / "strict", validation=[str(validation_set)], on_bad_row="strict")


def test_validation_data_goes_with_what_is_read_only_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in LINES[:80])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines.encode()))))
    validation_set = write_rows(tmp_path / "dev.jsonl", LINES[80:100])
    prepared = prepare(["-"], tmp_path / "out", vocabulary_size=300, validation=[str(validation_set)])
    assert (len(prepared.train), list(prepared.validation.texts())) == (80, LINES[80:100])


def test_latin_1_files_are_trained_on_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(60):
        text = f"Não é só a ação número {number}: os corações também.\n" * 4
        (folder / f"{number:02}.txt").write_bytes(text.encode("latin-1" if number % 2 else "utf-8"))
    report = prepare([str(folder)], tmp_path / "out", vocabulary_size=300).report
    assert (report["rows"], report["bytes_left_out"]) == (60, 0)
    assert report["changed"]["read as Windows-1252 (Latin-1), because the bytes are not UTF-8"]["count"] == 30
    assert "read as Windows-1252" in capsys.readouterr().err
    (folder / "russo.txt").write_bytes("Привет, мир! ".encode("cp1251") * 100)
    report = prepare([str(folder)], tmp_path / "again", vocabulary_size=300).report
    assert report["share_left_out"] == pytest.approx(1300 / (1300 + report["bytes"]), abs=1e-6)
    assert f"{report['share_left_out']:.2%} of the bytes read" in capsys.readouterr().err


def test_the_same_text_prepared_again_is_the_same_folder_byte_for_byte(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"a text of number {number} and more"}) + "\n" for number in range(80)))
    states = []
    for force in (False, True):
        prepare([str(text)], tmp_path / "out", vocabulary_size=300, validation_share=0.2, force=force)
        files = [path for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()]
        states.append({str(path): path.read_bytes() for path in files})
    assert states[0] == states[1]
