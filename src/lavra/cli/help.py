"""The help of a command: what it does, examples, and its options, in at most 80 columns, in the user's language.

Every text is looked up by itself in the catalogue of messages, before its lines are broken. Flags stay as they are.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from lavra.config.everywhere import EverywhereConfig
from lavra.config.flags import Flag, flags_of, group_help, without
from lavra.core.messages.catalogue import told
from lavra.core.units import show_duration, show_size

WIDTH = 80
"""Most columns of the help; a narrower terminal gets narrower lines."""

FEW = 12
"""A command with at most this many options shows all of them in `--help`."""

_NARROWEST = 40
"""Fewest columns of the help, however narrow the terminal."""

_INDENT = 24
"""Column at which the text beside a flag begins."""

_VALUE = re.compile(r"[A-Z]{2,}")
"""The name of a value, such as FILE."""

_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
"""A word of a command line, with the spaces inside quotation marks."""


def help_of(cls: type, *, prog: str, description: str, examples: Sequence[str], everything: bool) -> str:
    """Return the help of a command.

    Args:
        cls: The dataclass of its options.
        prog: The command as a person types it, such as "lavra train".
        description: What the command does, in a sentence or two. Line ends stay.
        examples: Command lines that show the command at work.
        everything: Whether to show every option, or those that are marked as common.

    Returns:
        The text, without a line end.
    """
    flags = flags_of(cls)
    options = [flag for flag in flags if not flag.positional]
    everywhere = flags_of(EverywhereConfig)
    some = options if everything or len(options) <= FEW else [flag for flag in options if flag.common]
    lines = [usage(cls, prog), ""]
    lines += [part for line in told(description).split("\n") for part in _wrapped(line, "")]
    if examples:
        lines += ["", told("examples:"), *(part for example in examples for part in _example(example))]
    positional = [flag for flag in flags if flag.positional]
    if positional:
        lines += ["", told("arguments:"), *_entries(positional, everything)]
    for path in dict.fromkeys(flag.path[:-1] if everything else () for flag in some):
        group = [flag for flag in some if not everything or flag.path[:-1] == path]
        lines += ["", *_title(cls, path), *_entries(group, everything)]
    lines += ["", told("everywhere:"), *_entries(everywhere, everything)]
    count = len(options) + len(everywhere)
    if everything:
        lines += ["", *_wrapped(told("A switch --x has its --no-x."), "")]
    elif len(some) < len(options):
        lines += ["", told(f"--help-all shows all {count} options.")]
    return "\n".join(lines)


def usage(cls: type, prog: str) -> str:
    """Return the line that says in which order the words of a command stand.

    Args:
        cls: The dataclass of its options.
        prog: The command as a person types it.
    """
    words = []
    for flag in flags_of(cls):
        value = _value(flag.metavar)
        if flag.positional:
            words.append(value if _required(flag) or value.startswith("[") else f"[{value}]")
        elif _required(flag):
            words.append(f"{flag.names[0]} {value}")
    return told(" ".join([f"usage: {prog}", *words, _value("[OPTIONS]")]))


def _value(metavar: str) -> str:
    """Return what stands for a value, such as `FILE.toml`, in the user's language."""
    return _VALUE.sub(lambda word: told(word[0]), metavar)


def _required(flag: Flag) -> bool:
    return flag.default is dataclasses.MISSING


def _title(cls: type, path: tuple[str, ...]) -> list[str]:
    """Return the heading of a group of options: of the command's own, or of a nested configuration."""
    if not path:
        return [told("options:")]
    name = told(f"{' '.join(path).replace('_', ' ')} options")
    return _wrapped(f"{name}: {told(group_help(cls, path))}", "")


def _entries(flags: Sequence[Flag], everything: bool) -> Iterator[str]:
    for flag in flags:
        yield from _entry(flag, everything)


def _entry(flag: Flag, everything: bool) -> Iterator[str]:
    """Yield the lines of one option: the flag on the left, what it means on the right or below."""
    metavar, more = flag.metavar, ""
    if metavar.startswith("{") and len(metavar) > _INDENT:
        choices = metavar.strip("{}…").replace(",", ", ")
        metavar, more = ("NAME…", f"Of {choices}.") if metavar.endswith("…") else ("NAME", f"One of {choices}.")
    given = [" ".join(filter(None, (", ".join(_names(flag, everything)), _value(metavar))))]
    left = "  " + ", ".join([*given, *(one.flag for one in flag.sets)])
    whole = " ".join(told(part) for part in (flag.help, more, _default(flag)) if part)
    text = textwrap.wrap(whole, _width() - _INDENT, break_on_hyphens=False) or [""]
    if len(left) > _INDENT - 2:
        yield from _wrapped(left.strip(), "  ", "      ")
    else:
        yield left.ljust(_INDENT) + text.pop(0)
    for line in text:
        yield " " * _INDENT + line


def _names(flag: Flag, everything: bool) -> list[str]:
    """Return the flags to show: the short form, and what turns a switch off where that is not the default."""
    if flag.positional:
        return []
    names = list(flag.names)
    if flag.switch and flag.default is False:
        names = names[::2]
    elif not everything:
        names = [names[0], without(names[0])] if flag.switch else names
    if not everything and not flag.switch:
        names = names[:1]
    return names


def _default(flag: Flag) -> str:
    """Return what to say of the value without the flag; nothing where the help says it, or there is none."""
    if _required(flag):
        return "" if flag.positional else "Required."
    if flag.default is True:
        return "On by default."
    if flag.default is None or flag.default is False or flag.default in ("", ()):
        return ""
    show = {"SIZE": show_size, "DURATION": show_duration}.get(flag.metavar, str)
    return f"Default: {show(flag.default)}."


def _example(line: str) -> Iterator[str]:
    """Yield an example, continued on further lines where it is too long for one."""
    words = _WORD.findall(line)
    written = "  "
    for number, word in enumerate(words):
        last = number == len(words) - 1
        if written.strip() and len(written) + len(word) + (0 if last else 2) > _width() - 1:
            yield f"{written.rstrip()} \\"
            written = "      "
        written += f"{word} "
    yield written.rstrip()


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        _width(),
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_on_hyphens=False,
    ) or [""]


def _width() -> int:
    return max(_NARROWEST, min(WIDTH, shutil.get_terminal_size().columns))
