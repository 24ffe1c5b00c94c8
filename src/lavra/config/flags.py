"""Marks that a field of a configuration carries for the command line, and the flags that follow from the fields.

A field is a flag of the same name: `batch_tokens` of the nested configuration `optimization` is
`--optimization.batch-tokens`, and `batch_tokens` in the table `[optimization]` of a recipe. A field that is true or
false is a pair of flags, `--x` and `--no-x`; where it may also be None, lavra decides when neither is given.

Examples:
    >>> from dataclasses import dataclass
    >>> from typing import Annotated
    >>> from lavra.config.flags import Common, flags_of, shown
    >>> @dataclass(frozen=True)
    ... class Request:
    ...     base: Annotated[str | None, Common, shown("--from", metavar="MODEL")] = None
    ...     check: bool = True
    >>> [flag.names for flag in flags_of(Request)]
    [('--from', '--base'), ('--check', '--no-check')]
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from lavra.core.typed_values import default_of, field_types


@dataclasses.dataclass(frozen=True)
class _Common:
    """The type of `Common`."""


Common = _Common()
"""Marks a field that `--help` shows; the others are shown by `--help-all`."""


@dataclasses.dataclass(frozen=True)
class Sets:
    """Marks a field that another flag sets to one value: `Sets("--strict", "strict")`.

    Attributes:
        flag: The flag, which takes no value.
        value: The value that it sets, as it is written on the command line.
    """

    flag: str
    value: str


def shown(*short: str, metavar: str | None = None) -> Any:
    """Return the mark that gives a field short forms of its flag, and its value a name in the help.

    Args:
        short: Other flags for the same field; the help names the first one first.
        metavar: What stands for the value in the help, such as "FILE"; by default it follows from the type.
    """
    return tyro.conf.arg(aliases=short or None, metavar=metavar)


@dataclasses.dataclass(frozen=True)
class Flag:
    """One field of a command's configuration, as the command line and its help show it.

    Attributes:
        path: The names of the fields that lead to it, which are also its keys in a recipe.
        hint: The type of the field, without its marks.
        names: The flags for the field, short forms first, and for a switch those that turn it off; none where the
            field is given by its place.
        metavar: What stands for the value in the help; empty for a switch.
        help: What the field means, in one paragraph.
        default: The value without the flag; `dataclasses.MISSING` where the flag is required.
        common: Whether `--help` shows it.
        sets: Other flags that set the field to one value, and that value.
    """

    path: tuple[str, ...]
    hint: Any
    names: tuple[str, ...]
    metavar: str
    help: str
    default: Any
    common: bool
    sets: tuple[Sets, ...] = ()

    @property
    def positional(self) -> bool:
        """Whether the value is given by its place, without a flag."""
        return not self.names

    @property
    def switch(self) -> bool:
        """Whether the field is a pair of flags, `--x` and `--no-x`."""
        return not self.positional and not self.metavar


def flags_of(cls: type, path: tuple[str, ...] = ()) -> list[Flag]:
    """Return the flags of a configuration: what is given by its place, its own fields, then nested configurations.

    A field that is marked with `tyro.conf.Suppress` is no flag.

    Args:
        cls: The dataclass. What it inherits comes after what it adds.
        path: The names of the fields that lead to it.
    """
    own: list[Flag] = []
    nested: list[Flag] = []
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in _in_order(cls):
        hint = field_types(cls)[name]
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if tyro.conf.Suppress in get_args(hint)[1:]:
            continue
        if dataclasses.is_dataclass(bare):
            nested += flags_of(bare, (*path, name))  # pyright: ignore[reportArgumentType]
        else:
            own.append(_flag(cls, fields[name], hint, (*path, name)))
    by_place = [flag for name in fields for flag in own if flag.positional and flag.path[-1] == name]
    return by_place + [flag for flag in own if not flag.positional] + nested


def without(flag: str) -> str:
    """Return the flag that turns a switch off.

    Examples:
        >>> without("--check"), without("--text.isolate")
        ('--no-check', '--text.no-isolate')
    """
    group, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{group}{dot}no-{name}"


def group_help(cls: type, path: tuple[str, ...]) -> str:
    """Return what a nested configuration is about: the first paragraph of its docstring.

    Args:
        cls: The dataclass of the command.
        path: The names of the fields that lead to the nested configuration.
    """
    for name in path:
        hint = field_types(cls)[name]
        cls = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def _flag(cls: type, field: dataclasses.Field[Any], hint: Any, path: tuple[str, ...]) -> Flag:
    bare, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    metavars = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
    switch = _without_none(bare) is bool
    names: tuple[str, ...] = ()
    if tyro.conf.Positional not in marks:
        short = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        names = (*short, "--" + ".".join(path).replace("_", "-"))
        if switch:
            names = tuple(itertools.chain.from_iterable((name, without(name)) for name in names))
    return Flag(
        path,
        bare,
        names,
        "" if switch and names else metavars[-1] if metavars else _metavar(bare),
        _helps(cls).get(field.name, ""),
        default_of(field),
        Common in marks,
        tuple(mark for mark in marks if isinstance(mark, Sets)),
    )


def _in_order(cls: type) -> Iterator[str]:
    """Yield the names of the fields: those that the class defines itself, then those of its bases."""
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    for one in cls.__mro__:
        for name in inspect.get_annotations(one):
            if name in names:
                names.remove(name)
                yield name


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    options = [option for option in get_args(hint) if option is not types.NoneType]
    return options[0] if len(options) == 1 else hint


_NAMES = {str: "TEXT", int: "N", float: "X", bool: "yes|no"}


def _metavar(hint: Any) -> str:
    """Return what stands for a value of a type in the help."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        named = [mark.metavar for mark in arguments[1:] if getattr(mark, "metavar", None)]
        return named[0] if named else _metavar(arguments[0])
    if origin in (Union, types.UnionType):
        return "|".join(_metavar(option) for option in arguments if option is not types.NoneType)
    if origin is Literal:
        return "{" + ",".join(str(choice) for choice in arguments) + "}"
    if origin is tuple:
        return f"{_metavar(arguments[0])}…"
    if isinstance(hint, type) and issubclass(hint, Path):
        return "PATH"
    return _NAMES.get(hint, "VALUE")


def _helps(cls: type) -> dict[str, str]:
    """Return the string under each field of a dataclass and of its bases, on one line."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        found |= _module_helps(one.__module__).get(one.__name__, {})
    return found


@functools.cache
def _module_helps(module: str) -> dict[str, dict[str, str]]:
    """Return the strings under the fields of each class of a module, by class and field."""
    path = getattr(sys.modules[module], "__file__", None)
    if path is None:
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = dict(_strings_under_fields(node))
    return found


def _strings_under_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for one, after in itertools.pairwise(node.body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                yield one.target.id, " ".join(text.split())
