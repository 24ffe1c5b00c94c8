"""The documents say what is true: command lines parse, links lead somewhere, and both languages are there."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from lavra.cli import options
from lavra.cli.main import COMMANDS
from lavra.core.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
WITH_COMMANDS = [page for page in PAGES if page.name not in ("lab.md", "decisions.md")]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


class _ParsedError(BaseException):
    """The options were read; what the command would do with them is not done."""


def _shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _command_lines(text: str) -> Iterator[str]:
    """Yield the command lines of a page: those of its consoles and those in code spans."""
    for block in _FENCED.findall(text):
        yield from (line[2:] for line in block.splitlines() if line.startswith("$ lavra "))
    for span in _SPAN.findall(_FENCED.sub("", text)):
        if span.startswith("lavra ") and len(span.split()) > 2:
            yield span


@cache
def _fault_of(line: str) -> str | None:
    """Return what is wrong with a command line, None where its command can read it."""
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "…"]
    if words[-1] in ("--help", "--version"):
        return None  # COMMAND --help, in the words of either language
    if words[0] not in COMMANDS:
        return f"there is no command {words[0]}"
    module = import_module(f"lavra.cli.{words[0].replace('-', '_')}")

    def parse(*arguments: Any, **named: Any) -> Any:
        options.parse(*arguments, **named)
        raise _ParsedError

    told = io.StringIO()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(told), redirect_stdout(told):
            patch.setattr(module, "parse", parse)
            module.main(words[1:])
    except _ParsedError:
        return None
    except SystemExit:
        return told.getvalue().strip()
    return f"{words[0]} did not read its options"


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_shown)
def test_every_command_line_is_understood(page: Path):
    wrong = {}
    for line in dict.fromkeys(_command_lines(page.read_text(encoding="utf8"))):
        if "--recipe" in line:
            line = line[: line.index("--recipe")]
        reason = _fault_of(line)
        if reason is not None:
            wrong[line] = reason
    assert not wrong


def test_a_wrong_command_line_is_found():
    text = "Say `lavra train mytext/ --buget 20m`.\n\n```console\n$ lavra tran mytext/\n$ lavra runs show\n```\n"
    lines = list(_command_lines(text))
    assert lines == ["lavra tran mytext/", "lavra runs show", "lavra train mytext/ --buget 20m"]
    assert all(_fault_of(line) for line in lines)


@cache
def _flags() -> frozenset[str]:
    """Return every flag that some command has, from the dataclasses of the options (a help takes a second to write)."""
    asked: list[Any] = []

    def parse(cls: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(cls)
        raise _ParsedError

    found = {"--from", "--json", "--quiet", "--recipe"}
    with pytest.MonkeyPatch.context() as patch:
        for name in COMMANDS:
            module = import_module(f"lavra.cli.{name}")
            found |= set(getattr(module, "_SHORT", {}))
            patch.setattr(module, "parse", parse)
            for words in (["train"], ["evaluate"], ["show", "x"], ["rm", "x"]):
                with contextlib.suppress(_ParsedError, InputError):
                    module.main(words)
    return frozenset(found | {flag for cls in asked for flag in _flags_of(cls)})


def _flags_of(cls: Any, prefix: str = "") -> Iterator[str]:
    """Yield the flags of a dataclass: dotted where it is nested, and `no-` before switches that are on."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        named = [one.name for one in getattr(hint, "__metadata__", ()) if isinstance(getattr(one, "name", None), str)]
        name = named[0] if named else name.replace("_", "-")
        if dataclasses.is_dataclass(plain):
            yield from _flags_of(plain, f"{prefix}{name}." if name else prefix)
        else:
            yield f"--{prefix}{name}"
            yield f"--{prefix}no-{name}"


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_shown)
def test_every_flag_that_is_named_exists(page: Path):
    spans = [span for span in _SPAN.findall(_FENCED.sub("", page.read_text(encoding="utf8"))) if span.startswith("--")]
    assert {span.split()[0] for span in spans} <= _flags()


@pytest.mark.parametrize("page", PAGES, ids=_shown)
def test_every_local_link_leads_somewhere(page: Path):
    text = _FENCED.sub("", page.read_text(encoding="utf8"))
    targets = [target.partition("#")[0] for target in _LINK.findall(text) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


def test_every_guide_is_there_in_both_languages():
    def names(folder: Path) -> set[str]:
        return {page.name for page in folder.glob("*.md")}

    assert names(DOCS / "guides") == names(DOCS / "pt" / "guides")
    assert {"index.md", "start.md"} <= names(DOCS) & names(DOCS / "pt")
    assert (ROOT / "README.pt-BR.md").is_file()


@pytest.mark.parametrize("name", sorted(page.name for page in (DOCS / "guides").glob("*.md")))
def test_both_languages_name_the_same_flags(name: str):
    english, portuguese = (
        set(re.findall(r"--[a-z][\w.-]*", (folder / name).read_text(encoding="utf8")))
        for folder in (DOCS / "guides", DOCS / "pt" / "guides")
    )
    assert english == portuguese


def test_nothing_is_loaded_from_a_network():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf8")
    assert "font: false" in settings
    assert "http://" not in settings
    assert "https://" not in settings
    for picture in (DOCS / "assets").glob("*.svg"):
        assert "href" not in picture.read_text(encoding="utf8")
