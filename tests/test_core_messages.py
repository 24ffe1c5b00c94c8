"""Messages in Portuguese: the catalogue fits the program, what is printed is translated, and nothing else changes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import lavra
from lavra.cli.main import main
from lavra.core.messages.catalogue import language, localized, read_catalogue, told
from lavra.core.messages.template import BETWEEN, PLACE, Template
from lavra.core.program import last_lines
from lavra.core.progress import Progress
from lavra.reports.formatting import text_table

TEMPLATES = read_catalogue("pt").templates
SOURCE = Path(lavra.__file__).parent
ENGLISH = re.compile(r"\b(the|of|for|with|and|from|loss|steps?|documents?|words?|per|left|ready|what|not|is)\b")


@pytest.fixture
def portuguese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVRA_LANG", "pt")


@cache
def constants() -> frozenset[str]:
    """Return all strings of the program, each on one line; those that stand side by side are one."""

    def strings() -> Iterator[str]:
        for path in sorted(SOURCE.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield from (" ".join(line.split()) for line in (node.value, *node.value.splitlines()))
                    yield node.value.replace("_", " ")  # the names of metrics are shown so

    return frozenset(strings())


@cache
def source() -> str:
    """Return all strings of the program below each other."""
    return "\n".join(constants())


def english(template: Template) -> list[str]:
    """Return the pieces of a template between its placeholders, parted also at the marks between sentences."""
    text = re.sub(r"\b1 ", " ; ", PLACE.sub(" ; ", template.english))  # a count stands before its noun
    pieces = re.split(r"[.,;:·?()\[\]]+(?:\s|$)|[()\[\]]| · ", text)
    return [" ".join(piece.split()) for piece in pieces if len(piece.strip()) > 2]


def is_made(piece: str) -> bool:
    """Return whether the program has a string with these words, or two that make them; `counted` makes the plurals."""
    cuts = [piece[:end] for end, letter in enumerate(piece) if letter == " "]
    halves = [(piece, ""), *((first, piece[len(first) :].lstrip()) for first in cuts)]
    return any(
        any(one in source() for one in (first, first.removesuffix("s"), f"{first.removesuffix('ies')}y"))
        and second in source()
        for first, second in halves
    )


def stands_whole(template: Template) -> bool:
    """Return whether all that stands between the placeholders are whole strings of the program."""
    return all(" ".join(piece.split()) in constants() for piece in BETWEEN.split(template.english) if piece.strip())


def test_every_template_is_made_by_the_program() -> None:
    others = [template for template in TEMPLATES if not stands_whole(template)]
    assert not [piece for template in others for piece in english(template) if not is_made(piece)]


def test_translations_have_the_same_placeholders() -> None:
    for template in TEMPLATES:
        assert sorted(PLACE.findall(template.translated)) == sorted((name, "") for name in template.places)


def test_a_message_goes_to_its_own_template_and_keeps_what_it_says(portuguese: None) -> None:
    for template in TEMPLATES:
        said = {name: "1,234.5" if how == "n" else f"<{name}>" for name, how in template.places.items()}
        message = PLACE.sub(lambda place, said=said: said[place[1]], template.english)
        shown = {name: localized(said[name]) if how == "n" else said[name] for name, how in template.places.items()}
        assert told(message) == PLACE.sub(lambda place, shown=shown: shown[place[1]], template.translated)


def test_the_language_is_that_of_the_variable_or_of_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for values, expected in (
        ({"LAVRA_LANG": "pt", "LANG": "en_US.UTF-8"}, "pt"),
        ({"LAVRA_LANG": "en", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LANG": "pt_BR.UTF-8"}, "pt"),
        ({"LC_ALL": "C", "LANG": "pt_PT.UTF-8"}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
        ({}, "en"),
    ):
        for name in ("LAVRA_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
            monkeypatch.setenv(name, values[name]) if name in values else monkeypatch.delenv(name, raising=False)
        assert language() == expected


def test_english_stays_as_it_is() -> None:
    for text in ("training a tokenizer of 8192 tokens", "a line  with columns\nanother  one", "", "  indented"):
        assert told(text) == text


def test_what_has_no_template_stays_whole(portuguese: None) -> None:
    for text in ("a line without a template: 1,234.5", "first  second\n  third", "runs/1.5b"):
        assert told(text) == text


def test_plurals_are_right_in_both_languages(portuguese: None) -> None:
    text = "text: {}, 0.5 MB, 1,500 tokens for training; {}, 0.01 MB for validation"
    shown = told(text.format("1 document", "12 documents"))
    assert shown == "texto: 1 documento, 0,5 MB, 1.500 tokens para treino; 12 documentos, 0,01 MB para validação"


def test_the_columns_of_a_table_stay_below_each_other(portuguese: None) -> None:
    table = (
        "  loss (nats per token)   3.960\n"
        "  perplexity per word     3,280.3  [3,000.0, 3,500.0]\n"
        "\n"
        "figure     predicted   actual\n"
        "─────────  ─────────  ───────\n"
        "loss         3.85864  3.96002"
    )
    assert told(table).split("\n") == [
        "  perda (nats por token)     3,960",
        "  perplexidade por palavra   3.280,3  [3.000,0, 3.500,0]",
        "",
        "valor       previsto   medido",
        "─────────  ─────────  ───────",
        "loss         3,85864  3,96002",
    ]


def test_the_columns_of_a_table_with_a_rule_stay_aligned_to_the_left_or_the_right(portuguese: None) -> None:
    table = (
        "  run     data  status    steps\n"
        "  ──────  ────  ────────  ─────\n"
        "  runs/a  text  finished  1,500\n"
        "  runs/b  loss  running      20\n"
        "  in full: 3 runs"
    )
    assert told(table).split("\n") == [
        "  treino  dados  estado        passos",
        "  ──────  ─────  ────────────  ──────",
        "  runs/a  text   terminado      1.500",
        "  runs/b  loss   em andamento      20",
        "  completo: 3 runs",
    ]
    headed = text_table(["", "a", "b"], [["skipped steps", "4.125", "yes"], ["seed", "1.0", "no"]])
    assert told(headed) == text_table(["", "a", "b"], [["passos pulados", "4,125", "sim"], ["semente", "1,0", "não"]])


def test_titles_above_numbers_stay_above_them(portuguese: None) -> None:
    table = (
        "                     model    95 % interval   majority\n"
        "accuracy             0.874   0.856 to 0.893      0.503\n"
        "balanced accuracy    0.874                       0.500"
    )
    assert told(table).split("\n") == [
        "                      modelo   intervalo 95 %    maioria",
        "acurácia               0,874    0,856 a 0,893      0,503",
        "acurácia balanceada    0,874                       0,500",
    ]


def test_a_message_of_several_phrases_is_told_phrase_by_phrase(portuguese: None) -> None:
    assert told("3 steps; 1 text") == "3 passos; 1 texto"
    assert told("3 steps; what is this; 1 text") == "3 steps; what is this; 1 text"  # not half of it
    failed = "warning: first_loss: 3.5 nats per token (expected: a finite number; no more is known of it); leave it out"
    assert told(failed).startswith(
        "aviso: first_loss: 3,5 nats por token (esperado: um número finito; mais não se sabe"
    )
    moved = "12 trainable tensors changed in 8 steps, and none of 3 frozen ones; 1 were updated too rarely to tell"
    assert told(moved) == (
        "12 tensores treináveis mudaram em 8 passos, e nenhum dos 3 congelados; 1 foram atualizados raramente demais "
        "para dizer"
    )
    assert told("12 trainable tensors changed in 8 steps") == "12 tensores treináveis mudaram em 8 passos"


def test_help_errors_progress_and_last_lines(portuguese: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "uso: lavra COMANDO" in shown
    assert not [line for line in shown.splitlines() if ENGLISH.search(line.partition("  ")[2])]
    assert main(["trian"]) == 2
    assert "não há o comando 'trian'\n  o que fazer: você quis dizer `lavra train`?" in capsys.readouterr().err
    assert main(["train", "/nowhere"]) == 2
    assert "lavra: /nowhere não existe\n  o que fazer: confira a grafia" in capsys.readouterr().err
    line = Progress("training", 1000, "steps").line(0.0, "12.3k tokens  loss 3.123  1.5k tokens/s  38% of peak")
    assert line == "treinando:   0%  0/1,0k passos  faltam ?  12,3k tokens  perda 3,123  1,5k tokens/s  38% do pico"
    assert last_lines([("report", "a/b.html")]) == ["relatório: a/b.html"]


SMALL: dict[str, Any] = {
    "steps": 3,
    "model": {"depth": 1, "width": 32, "heads": 1, "context": 64},
    "optimization": {"batch_tokens": 256},
    "machine": {"micro_batch_size": 2, "threads": 1, "precision": "fp32", "compile": "no"},
    "samples": 0,
}


def test_a_training_speaks_portuguese_and_writes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "texto.jsonl"
    texts = [f"Era uma vez o rei número {number} da terra de tal. " * 40 for number in range(24)]
    text.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf8")
    runs: dict[str, lavra.Run] = {}
    for name in ("en", "pt"):
        monkeypatch.setenv("LAVRA_LANG", name)
        runs[name] = lavra.train(text, out=str(tmp_path / name), text={"vocabulary": 300}, **SMALL)
        told_lines = capsys.readouterr().err.replace(str(tmp_path), "…").splitlines()
        if name == "pt":
            # the rows of the last table bear the names of figures in the files of a run
            assert not [line for line in told_lines if ENGLISH.search(line) and not line.startswith("loss ")]
            assert any("partida das contagens de" in line for line in told_lines)
            assert any("perda (nats por token)" in line for line in told_lines)
    timed = {"tokens_per_second", "time"}
    first, second = (
        [{key: line[key] for key in line if key not in timed} for line in run.metrics] for run in runs.values()
    )
    assert first == second
    assert set(runs["en"].result) == set(runs["pt"].result)
    assert runs["en"].result["baselines"] == runs["pt"].result["baselines"]
    events = [re.sub(r"[\d.,:-]+", "", (run.path / "events.log").read_text()) for run in runs.values()]
    assert events[0] == events[1]
