from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import pytest
import tyro

from lavra.cli.options import parse, print_json
from lavra.config.flags import shown
from lavra.config.generation import GenerateOptions
from lavra.config.planning import PlanRequest
from lavra.config.quantities import Count, Duration, Size
from lavra.config.search import Doc2QueryConfig, ExpandConfig
from lavra.config.training import TrainConfig
from lavra.core.configuration import to_toml
from lavra.core.errors import InputError
from lavra.core.progress import log


@dataclass
class Shape:
    """The shape of the model."""

    depth: int = 4
    """Number of layers."""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"


@dataclass
class Job:
    data: tyro.conf.Positional[tuple[str, ...]]
    """The text to learn from."""
    budget: Duration | None = None
    """How long it may take."""
    memory: Size | None = None
    tokens: Count | Literal["auto"] = "auto"
    check: bool = True
    shape: Shape = field(default_factory=Shape)


def read(*words: str) -> Job:
    return parse(Job, words, prog="lavra job", description="Do the job.", examples=["lavra job a --budget 10m"])[0]


def test_flags_are_the_fields():
    assert read("a", "b", "--shape.depth", "8", "--no-check") == Job(("a", "b"), check=False, shape=Shape(8))


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--budget", "1h30m"], "budget", 5400.0),
        (["--budget", "90"], "budget", 90.0),
        (["--memory", "512MiB"], "memory", 2**29),
        (["--tokens", "1.5B"], "tokens", 1_500_000_000),
        (["--tokens", "auto"], "tokens", "auto"),
    ],
)
def test_quantities_take_units(words: list[str], name: str, value: object):
    assert getattr(read(*words), name) == value


def test_a_recipe_sets_the_values_and_flags_override_them(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('budget = "10m"\ndata = ["corpus"]\ncheck = false\n[shape]\ndepth = 7\nnorm = "layernorm"\n')
    written = Job(("corpus",), budget=600.0, check=False, shape=Shape(7, "layernorm"))
    assert read("--recipe", str(recipe)) == written
    assert read(f"--recipe={recipe}", "--shape.depth", "9", "--check", "other") == Job(
        ("other",), budget=600.0, shape=Shape(9, "layernorm")
    )
    recipe.write_text(to_toml(written))
    assert read("--recipe", str(recipe)) == written


@pytest.mark.parametrize("written", [True, False, None])
@pytest.mark.parametrize(("word", "wanted"), [("--check", True), ("--no-check", False)])
def test_a_switch_may_say_what_the_recipe_or_the_default_says(
    tmp_path: Path, written: bool | None, word: str, wanted: bool
):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("" if written is None else f"check = {str(written).lower()}\n")
    assert read("corpus", "--recipe", str(recipe), word).check is wanted
    assert read("corpus", word).check is wanted


def test_a_recipe_may_leave_out_what_a_flag_gives(tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('budget = "10m"\n')
    assert read("corpus", "--recipe", str(recipe)) == Job(("corpus",), budget=600.0)


def test_a_recipe_that_cannot_be_used_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"the recipe .*none\.toml cannot be read"):
        read("--recipe", str(tmp_path / "none.toml"))
    (tmp_path / "wrong.toml").write_text("bugdet = 3")
    with pytest.raises(InputError, match=r"wrong\.toml: bugdet is no known key\n.*did you mean budget"):
        read("--recipe", str(tmp_path / "wrong.toml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--budget", "soon"], "--budget: 'soon' is not a duration"),
        (["a", "--budget=soon"], "--budget: 'soon' is not a duration"),
        (["a", "--shape.norm", "rms"], "--shape.norm 'rms' is not one of "),
        (["a", "--shape.depth", "deep"], "--shape.depth 'deep' is not a whole number"),
        (["a", "--shape.depth"], "--shape.depth has no value"),
        (["a", "--shape.depth", "--budget", "1m"], "--shape.depth has no value"),
        (["a", "--memory", "10MB", "--tokens", "3M", "--shape.depth", "1.5"], "--shape.depth '1.5' is not a whole"),
        (["a", "--tokens", "some"], "--tokens: 'some' is not a count"),
    ],
)
def test_a_wrong_value_is_explained(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(InputError) as caught:
        read(*words)
    assert caught.value.message.startswith(message)
    assert caught.value.remedy
    assert capsys.readouterr() == ("", "")


def test_a_choice_that_is_near_is_recommended():
    with pytest.raises(InputError) as caught:
        read("a", "--shape.norm", "layrnorm")
    assert caught.value.remedy == "did you mean layernorm?"


@dataclass(frozen=True)
class Pair:
    """Options that must be given."""

    first: Annotated[str, tyro.conf.Positional, shown(metavar="FIRST")]
    """The first."""
    second: int
    """The second."""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`lavra pair` needs FIRST"),
        (["a"], "`lavra pair` needs --second N"),
        (["--second", "2"], "`lavra pair` needs FIRST"),
    ],
)
def test_what_is_missing_is_named(words: list[str], message: str):
    with pytest.raises(InputError) as caught:
        parse(Pair, words, prog="lavra pair", description="Take two.")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("--bugdet", "did you mean --budget?"),
        ("--bugdet=3m", "did you mean --budget?"),
        ("--depth", "did you mean --shape.depth?"),
        ("--shape.nrom", "did you mean --shape.norm?"),
        ("--dpeth", "did you mean --shape.depth?"),
        ("--no-chekc", "did you mean --no-check?"),
        ("--xyzzy", "`lavra job --help-all` lists the options"),
        ("-b", "`lavra job --help-all` lists the options"),
        ("--max-steps", "`lavra job --help-all` lists the options"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest(word: str, remedy: str):
    with pytest.raises(InputError) as caught:
        read("a", word, "3")
    assert caught.value.message == f"`lavra job` has no {word.partition('=')[0]}"
    assert caught.value.remedy == remedy


def test_what_follows_two_dashes_is_no_flag():
    assert read("--", "a", "--bugdet", "--help") == Job(("a", "--bugdet", "--help"))


def test_help_shows_examples_units_and_the_common_flags(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    shown = capsys.readouterr().out
    for part in ("examples:\n  lavra job a --budget 10m", "--budget DURATION", "--recipe", "--json", "--quiet"):
        assert part in shown
    assert "\x1b" not in shown  # no colour in a pipe


def test_json_and_quiet_are_flags_of_every_command(capsys: pytest.CaptureFixture[str]):
    words = ["--json", "--quiet"]
    assert parse(Job, words, prog="lavra job", description="Do the job.")[1]
    log("not heard")
    print_json({"perplexity": {"value": float("nan")}, "text": "ção"})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"perplexity": {"value": None}, "text": "ção"}
    assert shown.err == ""


def test_a_flag_that_turns_something_off_says_what_it_turns_off():
    """A field that is on by default has the flag `--no-NAME`, beside which the help of the field stands."""
    found = [
        each
        for cls in (TrainConfig, Doc2QueryConfig, ExpandConfig, PlanRequest, GenerateOptions)
        for each in switched_off_by_a_flag(cls)
    ]
    assert {"check", "isolate", "whole-words"} <= {name for name, _ in found}
    for name, text in found:
        assert f"no-{name}" in text, f"{name} is on by default, and its help is {text!r}"


def switched_off_by_a_flag(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the name and the help of each field of a dataclass, or of one in it, that is true by default."""
    helps = field_helps(cls)
    for one in dataclasses.fields(cls):
        name = one.name.replace("_", "-")
        if one.default is True:
            yield name, helps[one.name]
        elif dataclasses.is_dataclass(one.default_factory):
            yield from switched_off_by_a_flag(cast(type, one.default_factory))


def field_helps(cls: type) -> dict[str, str]:
    """Return the string under each field of a dataclass and of its bases, by the name of the field."""
    helps: dict[str, str] = field_helps(cls.__base__) if dataclasses.is_dataclass(cls.__base__) else {}
    body = cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    for one, after in itertools.pairwise(body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            helps[one.target.id] = str(text)
    return helps
