"""What is begun is closed in time; what cannot be met is refused, left out or said, and never pretended to be met."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_level import ByteTokenizer, lively_decoder
from lavra.cli.main import main
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation.closing import Closing
from lavra.generation.constraints import OneOf, Words, constraint_of, json_schema
from lavra.generation.generate import generate, stream
from lavra.models.native.store import save_decoder
from little_tokenizers import byte_level, unigram

TOKENIZER: Any = ByteTokenizer()
STRATEGIES: list[dict[str, Any]] = [{"temperature": 1.5, "samples": 6}, {"greedy": True}, {"beams": 4, "samples": 4}]


def model() -> Any:
    return lively_decoder(2, context=96, vocabulary=byte_level().vocabulary_size)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_choices_that_do_not_fit_are_left_out_and_named(
    strategy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    choices = ("sim", "não", "talvez não")
    options = GenerateOptions(choices=choices, max_new_tokens=4, **strategy)
    found = generate(lively_decoder(1, context=64), TOKENIZER, ["ab", "x"], options)
    assert {one.text for one in found} <= {"sim", "não"}
    told = capsys.readouterr().err
    assert "1 of 3 choices have more than 4 tokens, left out: 'talvez não'; --max-new-tokens 11" in told
    assert "unfinished" not in {one.reason for one in found}
    with pytest.raises(InputError, match="every choice has 3 tokens or more; 2 may be written"):
        generate(lively_decoder(1), TOKENIZER, ["ab"], GenerateOptions(choices=choices, max_new_tokens=2))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize(
    "fields",
    [{"regex": r"[0-9]{3}-[0-9]{3}-[0-9]{3}"}, {"json_schema": '{"type": "string", "minLength": 30}'}],
    ids=str,
)
def test_a_text_without_room_for_the_rest_is_unfinished(fields: dict[str, Any], strategy: dict[str, Any]) -> None:
    found = generate(model(), byte_level(), ["x"], GenerateOptions(**fields, max_new_tokens=5, **strategy))
    assert {one.reason for one in found} == {"unfinished"}
    for one in generate(model(), byte_level(), ["x"], GenerateOptions(**fields, max_new_tokens=60, **strategy)):
        assert one.reason != "unfinished"
        if "regex" in fields:
            assert re.fullmatch(fields["regex"], one.text)
        else:
            assert len(json.loads(one.text)) >= 30


RECORD = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize(
    ("schema", "longest"),
    [({"type": "string"}, 9), (RECORD, 36), ({"type": "array", "items": RECORD, "minItems": 1}, 40), ({}, 7)],
    ids=str,
)
def test_json_is_closed_before_its_room_is_used_up(
    schema: dict[str, Any], longest: int, strategy: dict[str, Any]
) -> None:
    """A model that would write on for ever has to end what it began while there is room for that."""
    options = GenerateOptions(json_schema=json.dumps(schema), max_new_tokens=longest, **strategy)
    for one in generate(model(), byte_level(), ["x", "It is"], options):
        assert one.reason != "unfinished"
        json.loads(one.text)
    assert any(one.reason == "length" for one in generate(model(), byte_level(), ["x"], options)) or schema == {}


def test_a_way_out_leads_to_a_whole_text_with_tokenizers_of_every_kind() -> None:
    for tokenizer in (byte_level(), unigram()):
        constraint = json_schema(tokenizer, json.dumps(RECORD), 60)
        closing = Closing(tokenizer)
        way = closing.way(constraint.start(), 60)
        assert way is not None
        assert set(json.loads(tokenizer.decode(way))) == {"name", "age", "tags"}
        assert constraint.whole(tuple(way))
        assert closing.way(constraint.start(), len(way) - 1) is None
        assert np.flatnonzero(json_schema(tokenizer, json.dumps(RECORD), len(way)).allowed(())).tolist() == way[:1]


def test_a_text_that_may_end_where_it_was_cut_is_no_unfinished_one(capsys: pytest.CaptureFixture[str]) -> None:
    options = GenerateOptions(regex="[a-z]+", max_new_tokens=5, min_new_tokens=5, temperature=2.0, samples=4)
    found = generate(model(), byte_level(), ["x"], options)
    assert {one.reason for one in found} == {"length"}
    list(stream(model(), byte_level(), "x", GenerateOptions(regex="[a-z]+", max_new_tokens=5, min_new_tokens=5)))
    assert "unfinished" not in capsys.readouterr().err
    list(stream(model(), byte_level(), "x", GenerateOptions(regex="[a-z]{40}x", max_new_tokens=5)))
    assert "the text is unfinished: 5 tokens were no room for the rest" in capsys.readouterr().err


def test_constraints_say_what_is_whole() -> None:
    one_of = OneOf(TOKENIZER, ["ab", "abc"], 9)
    assert [one_of.whole(tuple(text)) for text in (b"", b"a", b"ab", b"abc")] == [False, False, True, True]
    words = Words(TOKENIZER, ["ab"], 9)
    assert [words.whole(tuple(text)) for text in (b"", b"xa", b"xab")] == [False, False, True]
    pattern = constraint_of(byte_level(), GenerateOptions(regex="[0-9]{2}"))
    assert pattern is not None
    ids = byte_level().encode("12")
    assert [pattern.whole(tuple(ids[:place])) for place in (0, len(ids))] == [False, True]


def test_true_is_the_schema_of_any_json() -> None:
    for schema in ("true", "{}", " true "):
        options = GenerateOptions(json_schema=schema, max_new_tokens=40, samples=8, temperature=1.5)
        found = [one for one in generate(model(), byte_level(), ["x"], options) if one.reason == "end"]
        assert found
        for one in found:
            json.loads(one.text)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("[]", "is \\[\\], which is no schema"),
        ('"x"', 'is "x", which is no schema'),
        ("7", "is 7, which is no schema"),
        ("null", "is null, which is no schema"),
        ("false", "is false, which no JSON satisfies"),
        ("[" * 100_000, "is not JSON"),
        ('{"type": 7}', "cannot be used"),
        ('{"type": "colour"}', "cannot be used"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_schema_is_refused(schema: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        constraint_of(byte_level(), GenerateOptions(json_schema=schema))


@pytest.mark.parametrize("pattern", ["[[:alpha:]]+", "[a&&b]|c", "[a--b]", "[~~a]+"])
def test_patterns_that_python_reads_otherwise_leak_no_warning(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constraint_of(byte_level(), GenerateOptions(regex=pattern, max_new_tokens=1))


def test_a_grammar_is_followed() -> None:
    grammar = 'start: "soma(" NUMBER ("," NUMBER)* ")"\nNUMBER: /[0-9]{1,2}/\n'
    options = GenerateOptions(grammar=grammar, max_new_tokens=40, samples=6, temperature=1.5)
    found = generate(model(), byte_level(), ["x"], options)
    assert {one.reason for one in found} <= {"end", "unfinished"}
    for one in found:
        assert one.reason == "unfinished" or re.fullmatch(r"soma\(\d{1,2}(,\d{1,2})*\)", one.text)
    with pytest.raises(InputError, match="--grammar cannot be used"):
        constraint_of(byte_level(), GenerateOptions(grammar="start: missing"))


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("json_schema", "rec.json", '{"type": "boolean"}'),
        ("regex", "date.regex", "[0-9]{3}"),
        ("grammar", "sum.lark", 'start: "a"'),
    ],
)
def test_a_file_may_hold_what_is_asked(
    name: str,
    file: str,
    content: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).write_text(content + "\n")
    options = GenerateOptions(**{name: file})
    assert getattr(options.with_files_read(), name) == content
    assert f"--{name.replace('_', '-')} is read from the file {file}" in capsys.readouterr().err
    assert GenerateOptions(**{name: content}).with_files_read() == GenerateOptions(**{name: content})
    Path(file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=f"{file}, which --{name.replace('_', '-')} names, is no text"):
        options.with_files_read()


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"--json-schema names rec\.json, and there is no such file"):
        GenerateOptions(json_schema="rec.json").with_files_read()
    with pytest.raises(InputError, match=r"--grammar names sum\.lark, and there is no such file"):
        GenerateOptions(grammar="sum.lark").with_files_read()
    with pytest.raises(InputError, match=r"--grammar names sum\.ebnf, and there is no such file"):
        GenerateOptions(grammar="sum.ebnf").with_files_read()
    for pattern in (r"[a-z]+\.json", "x" * 5000, "a\0b"):
        assert GenerateOptions(regex=pattern).with_files_read().regex == pattern


def test_the_command_says_what_is_unfinished_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_decoder(tmp_path / "model", model().float())
    byte_level().save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    Path("rec.json").write_text('{"enum": ["yes", "no"]}')
    base = ["generate", "model", "--prompt", "It", "--json-schema", "rec.json"]
    assert main([*base, "--max-new-tokens", "9"]) == 0
    assert capsys.readouterr().out.strip() in ('It"yes"', 'It"no"')
    assert main(["generate", "model", "It", "--regex", "[0-9]{3}x{9}", "--max-new-tokens", "4"]) == 1
    assert "the text is unfinished" in capsys.readouterr().err
    Path("in.jsonl").write_text('{"prompt": "It"}\n{"prompt": "x"}\n')
    files = ["generate", "model", "--in", "in.jsonl", "--out", "out.jsonl", "--regex", "[0-9]{3}x{9}"]
    assert main([*files, "--max-new-tokens", "4"]) == 1
    assert "2 of 2 texts are unfinished" in capsys.readouterr().err
