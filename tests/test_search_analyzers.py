"""Analyzers and the guess of the language."""

from __future__ import annotations

import pydoc_data.topics
import unicodedata

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.search.analyzers import Analyzer, without_accents
from lavra.search.languages import guess_language, language_warning

PORTUGUESE = [
    "Os rios correm para o mar, e as crianças não sabem por quê.",
    "Ela disse que também não tinha visto nada, mas eles já estavam à espera.",
    "Quando a gente chega, os outros já foram; são coisas que acontecem numa cidade como essa.",
    "Depois ele voltou até a casa dela, e tudo ficou como estava, sem que fosse preciso mais nada.",
] * 3


def test_portuguese_terms() -> None:
    analyzer = Analyzer("pt", fold_accents=False)
    assert analyzer.terms("As educações e a educação") == ["educ", "educ"]
    assert analyzer.terms("Não é a ESTAÇÃO?") == analyzer.terms("estação")
    assert analyzer.terms("avó") != analyzer.terms("avo")
    assert analyzer.terms(unicodedata.normalize("NFD", "coração")) == analyzer.terms("coração")


def test_english_terms() -> None:
    analyzer = Analyzer("en")
    assert analyzer.terms("The children's running, and the runs") == ["children", "run", "run"]
    assert analyzer.terms("read_file in co-operation") == ["read", "file", "co", "oper"]


def test_the_rule_for_single_letters_and_digits() -> None:
    assert Analyzer("en").terms("vitamin C, 7 days") == ["vitamin", "c", "7", "day"]
    assert Analyzer("en", one_letter_words=False).terms("vitamin C, 7 days") == ["vitamin", "7", "day"]


def test_folding_finds_what_is_typed_without_accents() -> None:
    analyzer = Analyzer("pt")
    assert analyzer.terms("educação não à mão") == analyzer.terms("educacao nao a mao")
    assert without_accents("Ünïcödé ç ã") == "Unicode c a"


def test_parts_can_be_turned_off() -> None:
    assert Analyzer("en", stem=False, stop_words=False).terms("The Cats") == ["the", "cats"]


def test_spans_point_into_the_text() -> None:
    text = "Os Rios do Brasil"
    assert [(text[start:end], term) for start, end, term in Analyzer("pt").spans(text)] == [
        ("Rios", "rios"),
        ("Brasil", "brasil"),
    ]


def test_fingerprint_tells_analyzers_apart_and_settings_go_round() -> None:
    analyzers = [Analyzer("pt"), Analyzer("en"), Analyzer("pt", fold_accents=False), Analyzer("pt", stem=False)]
    assert len({analyzer.fingerprint for analyzer in analyzers}) == 4
    assert all(Analyzer.from_json(analyzer.to_json()) == analyzer for analyzer in analyzers)


def test_unknown_language_is_refused() -> None:
    with pytest.raises(InputError, match="'xx'"):
        Analyzer("xx")  # pyright: ignore[reportArgumentType]


def test_languages_are_told_apart() -> None:
    english = list(pydoc_data.topics.topics.values())[:20]
    assert guess_language(english).language == "en"
    assert guess_language(PORTUGUESE).language == "pt"
    assert (
        guess_language(["los ríos van hacia el mar, pero ella está muy lejos y él también lo sabe"] * 9).language
        == "es"
    )
    assert guess_language(["x = y + 1; z = x * 7"] * 50).language is None


def test_warning_only_for_the_wrong_analyzer() -> None:
    assert language_warning(PORTUGUESE, "pt") == ""
    assert "use --language pt" in language_warning(PORTUGUESE, "en")
    assert language_warning(["1 2 3"], "en") == ""
