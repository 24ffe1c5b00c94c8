"""The dispatcher: finds the command, imports only its file, and turns every error into a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from lavra.core.errors import NO_SPACE, LavraError
from lavra.core.machine import keep_freed_memory
from lavra.core.messages.catalogue import told
from lavra.core.progress import printable, shield_terminal

COMMANDS = {
    "train": "Train the best model this machine can make of your text in the time you give",
    "tune": "Find the learning rate, the batch or any other option with which training does best",
    "resume": "Go on with an interrupted run or sweep, exactly where it stopped",
    "prepare": "Tokenise a corpus once, to train on it many times",
    "plan": "Say what a training will take and bring before anything is spent: memory, time, money, loss",
    "check": "Prove that a training set-up is right: on your text, your model, in under a minute",
    "evaluate": "Measure perplexity and bits per byte on text, with intervals",
    "generate": "Write text with a model",
    "chat": "Have a conversation with a chat model in the terminal",
    "score": "Measure how likely options are after a prompt",
    "classify": "Label texts with a language model: from the labels alone, or from a few examples",
    "embed": "Make vectors of texts, for search, clustering and comparing",
    "mine": "Mine rows to train an encoder or a reranker on, from pairs or documents",
    "explain": "Show what a model would write next, and what temperature, top-k and top-p leave of it",
    "export": "Write a model for transformers, with the proof that it is the same",
    "doc2query": "Train a model that writes the queries that a passage answers",
    "expand": "Write the queries that documents answer, to find them by",
    "index": "Make or update a search index of documents",
    "search": "Search an index, or evaluate searching on a collection with judgements",
    "runs": "List the runs in a folder, or show one run",
    "report": "Write the page of a run: outcome, curves, checks, samples, in one HTML file",
    "compare": "Set runs side by side: what differs, and whether it is more than chance",
}
"""The commands in the order of the help; each is the file of the same name (`-` written `_`) in this folder."""

_PURPOSE = "Give lavra your text and the time you have: it trains the best language model that this machine can make."

_EVERYWHERE = (
    "Everywhere: --json (one JSON object on standard output), --quiet, --recipe FILE.toml; lavra --version.",
    "To begin:   lavra train mytext/ --budget 10m --out runs/first",
)

_EXTRAS = {
    "search": ("bm25s", "Stemmer", "ir_measures", "ctranslate2", "sacrebleu", "rouge_score"),
    "dense": ("sentence_transformers", "usearch"),
    "classify": ("sklearn", "scipy"),
    "finetune": ("peft", "pytorch_optimizer"),
    "track": ("tensorboard", "wandb", "mlflow"),
    "generate": ("llguidance",),
    "tune": ("optuna",),
}
_REPORT = "This is a fault in lavra, not in your request. Please report it with the lines above and your command."

_COMPUTE = {
    "train",
    "tune",
    "resume",
    "check",
    "plan",
    "evaluate",
    "doc2query",
    "expand",
    "generate",
    "chat",
    "score",
    "classify",
    "embed",
    "mine",
}
"""Commands that run a model again and again, in tensors of the same sizes."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0: done; 1: a check failed, a run diverged, or lavra itself has a fault; 2: the request or the input is wrong;
    130 and 143: interrupted; 141: the reader of a pipe went away.
    """
    words = sys.argv[1:] if arguments is None else arguments
    shield_terminal()
    try:
        run, rest = _chosen(words)
        code = run(rest)
        sys.stdout.flush()
        return code
    except LavraError as error:
        _print_error(error.message, error.remedy)
        return error.exit_code
    except SystemExit as stop:  # the option parser ends so, after its message
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _print_error("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains as it ends
        return 141
    except ModuleNotFoundError as error:
        return _missing_module(error)
    except OSError as error:
        return _full_disk(error) if error.errno in NO_SPACE else _fault()
    except Exception:
        return _fault()


def _chosen(words: list[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    """Return the function that the words ask for, and the words that it takes."""
    if not words or words[0] in ("-h", "--help", "help"):
        return _print_help, []
    if words[0] == "--version":
        return _print_version, []
    if words[0] not in COMMANDS:
        return _unknown, words[:1]
    if words[0] in _COMPUTE:
        keep_freed_memory()  # before a command imports what starts threads
    return import_module(f"lavra.cli.{words[0].replace('-', '_')}").main, words[1:]


def _print_help(_: list[str]) -> int:
    print(_help())
    return 0


def _print_version(_: list[str]) -> int:
    from importlib.metadata import version

    print(f"lavra {version('lavra')}")
    return 0


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name.ljust(width)}  {told(line)}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            told(_PURPOSE),
            "",
            told("usage: lavra COMMAND …        lavra COMMAND --help says more and gives examples"),
            "",
            *lines,
            "",
            told(
                "Everywhere: --json (one JSON object on standard output), --quiet, --recipe FILE.toml; lavra --version."
            ),
            told("To begin:   lavra train mytext/ --budget 10m --out runs/first"),
        ]
    )


def _unknown(words: list[str]) -> int:
    from difflib import get_close_matches

    word = words[0]
    near = get_close_matches(word, COMMANDS, 1)
    hint = f"did you mean `lavra {near[0]}`?" if near else "`lavra --help` lists the commands"
    _print_error(f"there is no command {word!r}", hint)
    return 2


def _print_error(message: str, remedy: str = "") -> None:
    """Print what went wrong and what to do about it, in the language of the user."""
    text = f"lavra: {told(message)}" + (f"\n  {told(f'what to do: {remedy}')}" if remedy else "")
    print(printable(text), file=sys.stderr)


def _missing_module(error: ModuleNotFoundError) -> int:
    package = (error.name or "").partition(".")[0]
    for extra, packages in _EXTRAS.items():
        if package in packages:
            _print_error(f"this needs {package}", f"pip install 'lavra[{extra}]'")
            return 2
    return _fault()


def _full_disk(error: OSError) -> int:
    place = f" to {error.filename}" if error.filename else ""
    _print_error(
        f"DISK FULL: could not write{place} ({error.strerror})",
        "make room on that disk, or lift the limit on file sizes (ulimit -f), and give the command again",
    )
    return 1


def _fault() -> int:
    import traceback

    traceback.print_exc()
    print(file=sys.stderr)
    _print_error(_REPORT)
    return 1


if __name__ == "__main__":
    sys.exit(main())
