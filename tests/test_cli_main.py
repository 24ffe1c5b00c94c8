from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import lavra.cli.main as cli
from lavra.core.errors import CheckFailed, InputError, Interrupted

HEAVY = {"torch", "numpy", "transformers", "tokenizers", "pyarrow", "rich"}


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the command `runs` fail with `error`."""

    def main(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=main))


def test_every_command_has_its_file():
    files = {name.replace("-", "_") for name in cli.COMMANDS}
    missing = {name for name in files if importlib.util.find_spec(f"lavra.cli.{name}") is None}
    assert not missing


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, line in cli.COMMANDS.items():
        assert name in shown
        assert line in shown
    assert cli.main([]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.COMMANDS)], ids=" ".join)
def test_help_answers_without_the_heavy_libraries(words: list[str]):
    code = (
        "import sys; from lavra.cli.main import main; code = main(sys.argv[1:]);"
        f"print(code, sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"
    assert "usage: lavra" in done.stdout


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lavra 0.")


@pytest.mark.parametrize(("word", "hint"), [("trian", "did you mean `lavra train`"), ("xyz", "lists the commands")])
def test_an_unknown_command_is_answered_with_the_nearest(word: str, hint: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([word]) == 2
    assert f"no command '{word}'" in (shown := capsys.readouterr().err)
    assert hint in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("corpus is empty", "give some text"), 2),
        (CheckFailed("gradients differ", "lower the precision"), 1),
        (Interrupted("saved at step 7", "lavra resume runs/a", signal_number=15), 143),
        (Interrupted("saved at step 7", "lavra resume runs/a"), 130),
    ],
)
def test_an_explained_error_is_a_message_a_remedy_and_a_code(
    error: InputError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    raising(monkeypatch, error)
    assert cli.main(["runs"]) == code
    assert capsys.readouterr().err == f"lavra: {error.message}\n  what to do: {error.remedy}\n"


def test_ctrl_c_ends_with_130_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    raising(monkeypatch, KeyboardInterrupt())
    assert cli.main(["runs"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    raising(monkeypatch, ModuleNotFoundError("No module named 'bm25s'", name="bm25s.scoring"))
    assert cli.main(["runs"]) == 2
    assert "pip install 'lavra[search]'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), ModuleNotFoundError("odd", name="odd")])
def test_a_fault_of_lavra_shows_its_traceback_and_asks_for_a_report(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    raising(monkeypatch, error)
    assert cli.main(["runs"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert type(error).__name__ in shown
    assert "Please report it" in shown


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path):
    """`lavra … | head -1` ends quietly, also when the output is larger than a pipe's buffer."""
    code = "import sys; from lavra.cli import main; main.COMMANDS.update({str(n): 'x' * 99 for n in range(9999)});"
    process = subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(main.main(['--help']))"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_lavra_is_also_a_module():
    done = subprocess.run([sys.executable, "-m", "lavra", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
