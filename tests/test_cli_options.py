from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from lavra.cli.options import parse, print_json
from lavra.config.quantities import Count, Duration, Size
from lavra.core.configuration import to_toml
from lavra.core.errors import InputError
from lavra.core.progress import say


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
        (["a", "--bugdet", "3m"], "--budget"),
        (["a", "--budget", "soon"], "'soon' is not a duration: write it like"),
        (["a", "--shape.norm", "rms"], "layernorm"),
        (["a", "--shape.depth", "deep"], "--shape.depth"),
    ],
)
def test_a_wrong_flag_is_explained_with_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        read(*words)
    shown = capsys.readouterr()
    assert message in " ".join(shown.err.replace("│", " ").split())
    assert shown.out == ""


def test_help_shows_examples_units_and_the_common_flags(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    shown = capsys.readouterr().out
    for part in ("Examples:\n  lavra job a --budget 10m", "--budget DURATION", "--recipe", "--json", "--quiet"):
        assert part in shown
    assert "\x1b" not in shown  # no colour in a pipe


def test_json_and_quiet_are_flags_of_every_command(capsys: pytest.CaptureFixture[str]):
    words = ["--json", "--quiet"]
    assert parse(Job, words, prog="lavra job", description="Do the job.")[1]
    say("not heard")
    print_json({"perplexity": {"value": float("nan")}, "text": "ção"})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"perplexity": {"value": None}, "text": "ção"}
    assert shown.err == ""
