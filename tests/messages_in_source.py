"""The messages that the source can make, found in its syntax: templates with a placeholder for each value.

A message is the widest expression made of string constants, f-strings and sums of them that holds prose: two English
words side by side, or any word at a place where only messages stand, such as the title of a progress bar. Docstrings,
the texts under fields, and the errors of programming (`ValueError` and its like) are no messages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ERRORS = {"InputError", "CheckFailed", "Diverged", "CorruptFile", "Interrupted", "Paused", "LavraError"}

SAID = {"log", "told", "Waiting", "Progress", "track", "say_last", "last_lines", "text_table", "_print_error"} | ERRORS
"""Calls whose texts are messages even if they are one word."""

UNSAID = {
    "AssertionError",
    "AttributeError",
    "EOFError",
    "FloatingPointError",
    "IndexError",
    "KeyError",
    "NotImplementedError",
    "RuntimeError",
    "TypeError",
    "ValueError",
    "compile",
    "execute",
    "executemany",
    "executescript",
    "filterwarnings",
    "numpy_stream",
    "parse",
    "row_streams",
    "startswith",
    "torch_stream",
    "warn",
}
"""Calls whose texts are for programmers, for databases, or names of random streams; and `parse`, whose texts are the
help, which has a test of its own."""

_PROSE = re.compile(r"[A-Za-z]{2}[a-z',.;:]* [(\w`'-]*[A-Za-z]{2}|[a-z]{2,} \{")
_WHOLE = re.compile(r"^[a-z-]{4,}$")
_WORD = re.compile(r"[A-Za-z]{3}")
_CODE = re.compile(r"^[\w.\-/*{}<>$\[\]()=]+$|^<(svg|rect|text|circle|polyline)|^--[a-z.-]+ \S+$|^pip install |^---\n")
"""Words without spaces, a picture, a flag with its value, a command, and the head of a Markdown file."""

_PLACE = re.compile(r"\{(\w+)(![nt])?\}")
_NAMED = re.compile(r"[a-z_]\w*")


@dataclass(frozen=True)
class Message:
    """A message of the source.

    Attributes:
        place: File and line, relative to the source.
        english: The template, with a placeholder such as `{count!n}` for each value.
    """

    place: str
    english: str


def messages_in(path: Path, root: Path) -> Iterator[Message]:
    """Yield the messages of a file of the source.

    Args:
        path: The Python file.
        root: The folder that places are relative to.
    """
    tree = ast.parse(path.read_text(encoding="utf8"))
    for node, said in _texts(tree, False):
        for english in dict.fromkeys(map(_distinct, _templates(node))):
            if _is_message(english, said):
                yield Message(f"{path.relative_to(root)}:{node.lineno}", english)


def _distinct(english: str) -> str:
    """Return a template whose placeholders have different names: `{share}` and `{share2}`."""
    seen: dict[str, int] = {}

    def numbered(place: re.Match[str]) -> str:
        seen[place[1]] = seen.get(place[1], 0) + 1
        return "{" + place[1] + (str(seen[place[1]]) if seen[place[1]] > 1 else "") + (place[2] or "") + "}"

    return _PLACE.sub(numbered, english)


def _is_message(english: str, said: bool) -> bool:
    bare = re.sub(r"\{[^{}]*\}", "{}", english).strip()
    words = _WORD.search(bare) if said else _PROSE.search(bare)
    if said and _WHOLE.match(bare):
        return True
    return words is not None and not _CODE.match(bare) and len(re.findall(r"[A-Za-z]", bare.replace("{}", ""))) > 3


def _texts(node: ast.AST, said: bool) -> Iterator[tuple[ast.expr, bool]]:
    """Yield the widest expressions of text below a node, and whether they stand where messages stand."""
    if isinstance(node, ast.expr) and _is_text(node):
        yield node, said
        for inner in _values(node):
            yield from _texts(inner, False)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring or the text under a field
    if isinstance(node, ast.Call):
        name = _name(node.func)
        if name in UNSAID or (name == "log" and isinstance(node.func, ast.Attribute)):
            return
        if any(word.arg == "as_it_is" for word in node.keywords):
            return
        said = name in SAID
        yield from _texts(node.func, False)
        for child in (*node.args, *(word.value for word in node.keywords)):
            yield from _texts(child, said)
        return
    if isinstance(node, ast.AnnAssign):
        if node.value is not None:
            yield from _texts(node.value, said)
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in (*node.args.defaults, *node.body, *node.decorator_list):
            yield from _texts(child, False)
        return
    if isinstance(node, ast.Subscript | ast.Compare | ast.Dict):
        said = False
    if isinstance(node, ast.Assert):
        return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, said)


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_text(node.left) or _is_text(node.right)
    return False


def _values(node: ast.expr) -> Iterator[ast.AST]:
    """Yield the expressions whose values a text holds."""
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield part.value
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            if _is_text(side):
                yield from _values(side)
            else:
                yield side


def _templates(node: ast.expr) -> list[str]:
    """Return the templates of a text: one for each choice of the words of its own."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.BinOp):
        return [a + b for a in _templates(node.left) for b in _templates(node.right)]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            found = [before + one for before in found for one in _templates(part)]
        return found
    if isinstance(node, ast.FormattedValue):
        numeric = node.format_spec is not None
        return ["{" + _label(node.value) + ("!n" if numeric else _kind(node.value)) + "}"]
    return ["{" + _label(node) + _kind(node) + "}"]


def _kind(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        name = _name(node.func)
        if name.startswith("show_") or name in ("len", "round", "sum", "max", "min", "int"):
            return "!n"
        if name.startswith("_") or name == "counted":
            return "!t"
    if isinstance(node, ast.IfExp):
        return "!t"
    return ""


def _label(node: ast.AST) -> str:
    """Return a name for the value of an expression."""
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_")
    if isinstance(node, ast.Call):
        if _name(node.func) == "counted" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            return _plain(str(node.args[1].value)) + "s"
        inner = node.args[0] if node.args else node.func
        return _label(inner)
    if isinstance(node, ast.Subscript):
        key = node.slice
        return _plain(key.value) if isinstance(key, ast.Constant) and isinstance(key.value, str) else _label(node.value)
    if isinstance(node, ast.BinOp):
        return _label(node.left) if not isinstance(node.left, ast.Constant) else _label(node.right)
    if isinstance(node, ast.IfExp):
        return "which"
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return "names"
    return "value"


def _plain(text: str) -> str:
    return "_".join(_NAMED.findall(text.lower())) or "value"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
