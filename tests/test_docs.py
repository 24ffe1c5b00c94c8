"""The documents say what is true: command lines parse, links lead somewhere, and both languages are there."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from command_lines import configurations
from lavra.cli import options
from lavra.cli.main import COMMANDS
from lavra.config.everywhere import EverywhereConfig
from lavra.config.flags import flags_of
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
    if words[-1] in ("--help", "--help-all", "--version"):
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
    except InputError as error:
        return str(error)
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
    """Return every flag that some command has."""
    classes = [EverywhereConfig, *(cls for _, cls in configurations())]
    flags = [flag for cls in classes for flag in flags_of(cls)]
    names = {name for flag in flags for name in (*flag.names, *(one.flag for one in flag.sets))}
    return frozenset(names | {"--help", "--help-all", "--version"})


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
