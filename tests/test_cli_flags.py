"""Every option of every command: its flag, its key in a recipe, its help, and what is said of wrong ones."""

from __future__ import annotations

import ast
import dataclasses
import json
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

import lavra.cli
from command_lines import configurations
from lavra.cli.main import main
from lavra.cli.options import parse
from lavra.cli.unknown import ELSEWHERE
from lavra.config.everywhere import EverywhereConfig
from lavra.config.flags import Flag, flags_of
from lavra.config.training import TrainConfig
from lavra.core.errors import InputError

_MANY = 14
"""Most options of a command that `--help` shows, besides the three that every command has."""

COMMANDS = configurations()
IDS = [" ".join(words) for words, _ in COMMANDS]

of_every_command = pytest.mark.parametrize(("words", "cls"), COMMANDS, ids=IDS)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a configuration hold values that contradict each other, so that all of its flags can be given at once."""
    for _, cls in COMMANDS:
        for one in [cls, *nested(cls)]:
            if hasattr(one, "__post_init__"):
                monkeypatch.setattr(one, "__post_init__", lambda self: None)


def nested(cls: type) -> list[type]:
    """Return the dataclasses of the nested configurations of a dataclass."""
    direct = [field.default_factory for field in dataclasses.fields(cls)]
    found = [one for one in direct if isinstance(one, type) and dataclasses.is_dataclass(one)]
    return [each for one in found for each in (one, *nested(one))]


def read(cls: type, *words: str) -> Any:
    return parse(cls, words, prog="lavra x", description="")[0]


def value_at(options: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        options = getattr(options, name)
    return options


def other_value(hint: Any, default: Any) -> Any:
    """Return a value of a type that is not the default, as a recipe says it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return other_value(arguments[0], default)
    if origin in (Union, types.UnionType):
        return other_value(next(one for one in arguments if one is not types.NoneType), default)
    if origin is Literal:
        return next(choice for choice in arguments if choice != default)
    if origin is tuple:
        return [other_value(arguments[0], default)]
    if hint is bool:
        return not default
    return {int: 7, float: 0.125}.get(hint, "some")


def words_of(flag: Flag, name: int) -> list[str]:
    """Return the words that give a flag another value, by one of its names."""
    value = other_value(flag.hint, flag.default)
    values = [str(one) for one in (value if isinstance(value, list) else [value])]
    if flag.positional:
        return values
    if flag.switch:
        return [flag.names[:2][not value] if name == 0 else flag.names[-2:][not value]]
    return [flag.names[name], *values]


def command_line(flags: list[Flag], name: int) -> list[str]:
    return [word for flag in flags for word in words_of(flag, name)]


def recipe_of(flags: list[Flag]) -> str:
    """Return a recipe that gives every option another value."""
    lines = [f"{'.'.join(flag.path)} = {json.dumps(other_value(flag.hint, flag.default))}" for flag in flags]
    return "\n".join(lines) + "\n"


@of_every_command
@pytest.mark.usefixtures("unchecked")
def test_every_option_is_a_flag_and_the_same_key_of_a_recipe(words: tuple[str, ...], cls: Any, tmp_path: Path):
    flags = flags_of(cls)
    by_short_flags, by_flags = (read(cls, *command_line(flags, name)) for name in (0, -1))
    assert by_short_flags == by_flags
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_of(flags))
    assert read(cls, "--recipe", str(recipe)) == by_flags
    for flag in flags:
        assert value_at(by_flags, flag.path) != flag.default, flag.path


@of_every_command
@pytest.mark.usefixtures("unchecked")
def test_a_switch_can_be_turned_on_and_off_and_a_flag_overrides_the_recipe(
    words: tuple[str, ...], cls: Any, tmp_path: Path
):
    flags = flags_of(cls)
    switches = [flag for flag in flags if flag.switch]
    needed = command_line([flag for flag in flags if flag.default is dataclasses.MISSING], -1)
    absent = read(cls, *needed)
    assert [value_at(absent, flag.path) for flag in switches] == [flag.default for flag in switches]
    recipe = tmp_path / "recipe.toml"
    for number, value in enumerate((True, False)):
        given = read(cls, *needed, *(flag.names[number] for flag in switches))
        assert {value_at(given, flag.path) for flag in switches} <= {value}
        recipe.write_text("".join(f"{'.'.join(flag.path)} = {json.dumps(value)}\n" for flag in switches))
        assert read(cls, *needed, "--recipe", str(recipe)) == given
        others = [flag.names[1 - number] for flag in switches]
        overridden = read(cls, *needed, "--recipe", str(recipe), *others)
        assert {value_at(overridden, flag.path) for flag in switches} <= {not value}


def test_options_that_are_true_false_or_left_to_lavra_are_switches():
    three = {
        " ".join(words): [flag.names for flag in flags_of(cls) if flag.switch and flag.default is None]
        for words, cls in COMMANDS
    }
    assert ("--model.tied", "--model.no-tied") in three["train"]
    assert ("--model.ngram-copy", "--model.no-ngram-copy") in three["check"]
    for command in ("generate", "chat", "score", "classify", "explain", "evaluate"):
        assert three[command] == [("--bos", "--no-bos")]
    assert all(
        flag.switch for _, cls in COMMANDS for flag in flags_of(cls) if bool in (flag.hint, *get_args(flag.hint))
    )


def test_the_size_of_the_embedding_is_no_flag():
    """Rows of an embedding that no tokenizer knows would ruin a model."""
    for name in ("--transforms.vocabulary", "--transforms.no-vocabulary"):
        with pytest.raises(InputError, match="has no --transforms"):
            read(TrainConfig, "x", name, "500")
    assert "transforms.vocabulary" not in {".".join(flag.path) for flag in flags_of(TrainConfig)}


def test_a_flag_may_set_an_option_to_one_value():
    assert read(TrainConfig, "x", "--strict") == read(TrainConfig, "x", "--text.on-bad-row", "strict")


@of_every_command
def test_the_short_help_is_short_and_the_long_one_is_whole(
    words: tuple[str, ...], cls: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    shown = {}
    for flag in ("-h", "--help", "--help-all"):
        with pytest.raises(SystemExit, match="0"):
            main_or_exit([*words, flag])
        shown[flag] = capsys.readouterr().out
    assert shown["-h"] == shown["--help"]
    flags = [*flags_of(cls), *flags_of(EverywhereConfig)]
    options = [flag for flag in flags if not flag.positional]
    for text, everything in ((shown["--help"], False), (shown["--help-all"], True)):
        lines = text.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[0].startswith(f"usage: lavra {' '.join(words)} ")
        assert "\nexamples:\n  lavra " in text
        assert text.count("{") == text.count("}")
        entries = [line for line in lines if line.startswith("  --")]
        assert len(entries) == len(options) if everything else 3 <= len(entries) <= _MANY + 3
        for flag in flags:
            if flag.positional:
                assert f"\n  {flag.metavar} " in text
            elif everything:
                assert any(flag.names[0] in entry.replace(",", " ").split() for entry in entries)
    whole = len(shown["--help"].split("\n  --")) == len(shown["--help-all"].split("\n  --"))
    last = shown["--help"].splitlines()[-1]
    assert (last == f"--help-all shows all {len(options)} options.") is not whole


def main_or_exit(words: list[str]) -> None:
    """Run a command line, and end as its process would."""
    raise SystemExit(main(words))


def test_the_help_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit, match="0"):
        main_or_exit(["train", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@of_every_command
def test_every_option_says_what_it_means(words: tuple[str, ...], cls: Any):
    for flag in flags_of(cls):
        assert flag.help.endswith((".", "…")), flag.path


@of_every_command
def test_a_wrong_flag_ends_with_2_and_leaves_standard_output_alone(
    words: tuple[str, ...], cls: Any, capsys: pytest.CaptureFixture[str]
):
    assert main([*words, "--no-such-flag", "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"lavra: `lavra {' '.join(words)}` has no --no-such-flag\n  what to do: ")


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_flags_of_other_programs_are_answered_with_a_flag_that_there_is(flag: str):
    answered = []
    for words, cls in COMMANDS:
        known = {name for one in flags_of(cls) for name in one.names}
        if flag in known:
            continue
        with pytest.raises(InputError) as caught:
            read(cls, flag, "1")
        if caught.value.remedy.startswith("use "):
            answered.append(words)
            assert caught.value.remedy.removeprefix("use ").replace(",", " ").split()[0] in known
    assert answered


@pytest.mark.parametrize(
    ("written", "key"),
    [('from = "gpt2"', "base"), ("context = 128", "model.context"), ('model = "gpt2-124m"', "model.preset")],
)
def test_a_short_form_in_a_recipe_is_answered_with_its_key(written: str, key: str, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(written)
    with pytest.raises(InputError, match="short form") as caught:
        read(TrainConfig, "x", "--recipe", str(recipe))
    assert caught.value.remedy == f"write {key}"


def test_every_option_of_every_command_stands_in_the_configuration():
    for _, cls in COMMANDS:
        assert {one.__module__.rpartition(".")[0] for one in (cls, *nested(cls))} == {"lavra.config"}
    for path in Path(lavra.cli.__file__).parent.glob("*.py"):
        classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        assert not classes, path.name


def test_every_command_can_print_its_result_as_json():
    for command in {words[0] for words, _ in COMMANDS}:
        path = Path(lavra.cli.__file__).with_name(f"{command}.py")
        for node in ast.parse(path.read_text()).body:
            called = {one.func.id for one in ast.walk(node) if isinstance(one, ast.Call) and hasattr(one.func, "id")}
            if isinstance(node, ast.FunctionDef) and "parse" in called:
                assert "as_json" in {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}, node.name
        assert "print_json" in path.read_text()
