"""Reduces Portuguese plurals that Snowball's stemmer keeps apart from their singulars."""

from __future__ import annotations

# Words in -s, without accents, that are not changed: they are no plural, or the plural is also another word, as "pais"
# (parents, or the country without its accent).
_AS_THEY_ARE = frozenset(
    ("ademais", "cais", "demais", "depois", "deus", "dois", "jamais", "mais", "pais", "pois", "seis")
)

# Plurals that only lose their -s, although a rule below fits their ending.
_ONLY_AN_S = frozenset(("bois", "freis", "herois", "joqueis", "leis", "maes", "reis"))

# Ending of the plural and of the singular; the first that fits is taken.
_RULES = (
    ("oes", "ao"),  # eleições
    ("aes", "ao"),  # pães
    ("aos", "ao"),  # mãos
    ("ais", "al"),  # hospitais
    ("ois", "ol"),  # lençóis
    ("uis", "ul"),  # azuis
    ("eis", "el"),  # papéis, fáceis
    ("eus", "eu"),  # museus
    ("ns", "m"),  # homens
)
# Plurals of words in stressed -il ("civis"), and endings of others; other words in -is after a consonant ("táxis") only
# take an s.
_IN_IL = frozenset(
    (
        "abris",
        "anis",
        "ardis",
        "barris",
        "brasis",
        "canis",
        "cantis",
        "carris",
        "covis",
        "esmeris",
        "febris",
        "funis",
        "fuzis",
        "hostis",
        "imbecis",
        "perfis",
        "pernis",
        "pueris",
        "quadris",
        "sutis",
        "viris",
    )
)

_IN_IL_ENDINGS = ("ctis", "ivis", "ntis", "ptis", "rvis", "horis", "veris", "venis")
_CONSONANTS = frozenset("bcdfghjklmnpqrstvxz")
_LEAST = 4  # letters of the shortest word that is changed


def singular(word: str) -> str:
    """Return the form that a noun or an adjective shares with its plural, for a word without accents.

    It need not be a word: "fácil" and "fáceis" both become "facel", because their plural does not tell whether its
    singular ends in -el or in -il. A word that is no such plural is returned as it is.

    Examples:
        >>> from lavra.text.portuguese import singular
        >>> singular("declaracoes"), singular("papeis"), singular("homens"), singular("facil"), singular("pais")
        ('declaracao', 'papel', 'homem', 'facel', 'pais')
    """
    if len(word) < _LEAST or word in _AS_THEY_ARE:
        return word
    if word[-1] != "s":
        return f"{word[:-2]}el" if word.endswith("il") and word[-3] in _CONSONANTS else word
    if word in _ONLY_AN_S:
        return word[:-1]
    for plural, ending in _RULES:
        if word.endswith(plural):
            return word[: -len(plural)] + ending
    return f"{word[:-2]}el" if word in _IN_IL or word.endswith(_IN_IL_ENDINGS) else word
