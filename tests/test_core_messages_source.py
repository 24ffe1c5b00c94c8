"""Every message that the source can make has a Portuguese translation, or is a named exception."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import lavra
from lavra.core.messages.catalogue import _CLAUSE, read_catalogue
from messages_in_english import MODULES, TEXTS
from messages_in_source import Message, messages_in

SOURCE = Path(lavra.__file__).parent
CATALOGUE = read_catalogue("pt")
PLACE = re.compile(r"\{[^{}]*\}")
TEMPLATES = {PLACE.sub("{}", one.english) for one in CATALOGUE.templates}


def is_translated(english: str) -> bool:
    """Return whether each line of a message has a translation, whatever its values are."""
    bare = [PLACE.sub("{}", line).strip().removeprefix(";").strip() for line in english.split("\n")]
    said = [line for line in bare if len(re.findall("[A-Za-z]", line)) > 3 and line not in TEMPLATES]
    filled = [line.replace("{}", "7") for line in said]
    return all(CATALOGUE.phrase(line) or CATALOGUE._phrases(line, _CLAUSE) for line in filled)


@cache
def untranslated() -> list[Message]:
    """Return the messages of the source that have no translation."""
    files = [path for path in sorted(SOURCE.rglob("*.py")) if "messages" not in path.parts]
    return [one for path in files for one in messages_in(path, SOURCE) if not is_translated(one.english)]


def test_every_message_has_a_translation_or_is_a_named_exception() -> None:
    modules = {name for names in MODULES.values() for name in names}
    texts = {text for texts in TEXTS.values() for text in texts}
    bare = {PLACE.sub("{}", text) for text in texts}
    missing = [
        f"{one.place}: {one.english}"
        for one in untranslated()
        if one.place.partition(":")[0] not in modules and PLACE.sub("{}", one.english) not in bare
    ]
    assert not missing, "\n".join(["add these to the files of src/lavra/core/messages/pt:", *missing])


def test_every_exception_is_one() -> None:
    modules = {one.place.partition(":")[0] for one in untranslated()}
    assert not [name for names in MODULES.values() for name in names if name not in modules]
    found = {PLACE.sub("{}", one.english) for one in untranslated()}
    assert not [text for texts in TEXTS.values() for text in texts if PLACE.sub("{}", text) not in found]


def test_a_new_message_without_a_translation_is_found(tmp_path: Path) -> None:
    source = tmp_path / "room.py"
    source.write_text(
        '"""A docstring says nothing to a user."""\n'
        "def work(count):\n"
        '    """Nor does this one."""\n'
        '    log(f"the frobnicator has {count:,} wheels")\n'
        '    log("interrupted")\n'
        '    raise InputError("frobnicated", f"mend {count} wheels" + ("" if count else "; then wait for rain"))\n'
        '    raise ValueError("for programmers only")\n',
        encoding="utf8",
    )
    found = [one.english for one in messages_in(source, tmp_path) if not is_translated(one.english)]
    assert sorted(found) == [
        "; then wait for rain",
        "frobnicated",
        "mend {count} wheels{which!t}",
        "the frobnicator has {count!n} wheels",
    ]


def test_no_file_of_the_catalogue_is_long_and_none_repeats_another() -> None:
    folder = SOURCE / "core" / "messages" / "pt"
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        lines = path.read_text(encoding="utf8").splitlines()
        assert len(lines) <= 302, f"{path.name} has {len(lines)} lines: divide it"
        for line in lines[1:-1]:
            key = line.partition('": "')[0]
            assert seen.setdefault(key, path.name) == path.name, f"{key} stands in {seen[key]} and {path.name}"
