"""Analyzers and the guess of the language."""

from __future__ import annotations

import pydoc_data.topics
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.text.analyzers import Analyzer, without_accents
from lavra.text.languages import guess_language, language_warning

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


@pytest.mark.parametrize(
    "pairs",
    [
        "declaração declarações, eleição eleições, avião aviões, mão mãos, pão pães, irmão irmãos",
        "hospital hospitais, animal animais, azul azuis, lençol lençóis, farol faróis",
        "papel papéis, hotel hotéis, móvel móveis, fácil fáceis, útil úteis, fóssil fósseis, civil civis",
        "barril barris, infantil infantis",
        "homem homens, jovem jovens, álbum álbuns, bom bons",
        "casa casas, rei reis, lei leis, herói heróis, táxi táxis, mãe mães, boi bois, museu museus",
    ],
)
def test_a_portuguese_singular_and_its_plural_are_one_term(pairs: str) -> None:
    analyzer = Analyzer("pt")
    for one, many in (pair.split() for pair in pairs.split(", ")):
        assert len(set(analyzer.terms(f"{one} {many} {without_accents(one)} {without_accents(many).upper()}"))) == 1, (
            one
        )


def test_words_that_only_look_like_plurals_stay_apart() -> None:
    analyzer = Analyzer("pt", stop_words=False)
    for words in ("mil mel", "pais pal", "reis rel", "mães mão"):
        assert len(set(analyzer.terms(words))) == 2, words


def test_a_word_with_an_accent_is_no_function_word_without_it() -> None:
    analyzer = Analyzer("pt")
    assert analyzer.terms("Pará Sé pôr dá dê más nó") == ["par", "se", "por", "da", "de", "mas", "no"]
    assert analyzer.terms("para se por da de mas no você voce não nao") == []


def test_scripts_without_spaces_vowel_signs_and_emoji() -> None:
    analyzer = Analyzer("en")
    assert set(analyzer.terms("東京")) <= set(analyzer.terms("東京都に住む"))
    assert analyzer.terms("हिन्दी में लिखो") == ["हिन्दी", "में", "लिखो"]
    assert analyzer.terms("東京 Tokyo ❤ 🎉, don’t") == ["東京", "tokyo", "❤", "🎉", "don", "t"]
    assert [text for *_, text in analyzer.spans("東京都 x")] == ["東京", "京都", "x"]


@given(st.text())
def test_words_are_found_where_they_stand(text: str) -> None:
    analyzer = Analyzer("en", stop_words=False, stem=False)
    found = list(analyzer.spans(text))
    assert all(0 <= start < end <= len(text) for start, end, _ in found)
    assert bool(found) == bool(analyzer.words(text))


def test_parts_can_be_turned_off() -> None:
    assert Analyzer("en", stem=False, stop_words=False).terms("The Cats") == ["the", "cats"]


def test_spans_point_into_the_text() -> None:
    text = "Os Rios do Brasil"
    assert [(text[start:end], term) for start, end, term in Analyzer("pt").spans(text)] == [
        ("Rios", "rios"),
        ("Brasil", "brasel"),
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
