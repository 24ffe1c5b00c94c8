"""`lavra chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lavra.cli.options import parse, print_json
from lavra.config.inference import ChatConfig
from lavra.core.errors import InputError
from lavra.core.progress import log, printable

if TYPE_CHECKING:
    from lavra.generation.chat import Conversation

_HELP = (
    "/reset starts over, /save FILE appends the conversation to a file of JSON Lines, /exit ends (and so does Ctrl-D)"
)


def main(arguments: list[str]) -> int:
    """Run `lavra chat …`."""
    options, as_json = parse(
        ChatConfig,
        arguments,
        prog="lavra chat",
        description="Have a conversation with a chat model; answers are printed while they are generated.\n"
        f"During it, {_HELP}.",
        examples=[
            "lavra chat runs/assistant",
            'lavra chat runs/assistant --system "Answer in Portuguese." --temperature 0.6',
        ],
    )
    from lavra.workflows.generation.chat import open_chat

    where = {"device": options.device, "precision": options.precision}
    conversation = open_chat(options.model, options.options, system=options.system, **where)
    converse(conversation, sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json({"messages": conversation.messages})
    return 0


def converse(conversation: Conversation, out: TextIO) -> None:
    """Read turns from standard input until its end or `/exit`, and write the answers while they are generated.

    Args:
        conversation: The open conversation, to which turns are added.
        out: The stream that the answers are written to.
    """
    asks = sys.stdin.isatty()
    if asks:
        import readline  # noqa: F401 -- gives `input` its line editing and history

        log(_HELP)
    while True:
        try:
            line = (input("> ") if asks else _line()).strip()
        except (EOFError, KeyboardInterrupt):
            print(file=out)
            return
        if line == "/exit":
            return
        try:
            if line.startswith("/"):
                _command(conversation, line)
            elif line:
                _answer(conversation, line, out)
        except InputError as error:
            log(f"lavra: {error}")


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _command(conversation: Conversation, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "/reset":
        conversation.reset()
        log("the conversation starts over")
    elif word == "/save":
        _save(conversation, rest.strip())
    else:
        log(_HELP if word == "/help" else f"there is no command {word}; {_HELP}")


def _save(conversation: Conversation, name: str) -> None:
    """Add the conversation to a file as a line that `lavra train` reads."""
    if not name:
        raise InputError("/save needs the name of a file", "for instance /save chats.jsonl")
    if not conversation.turns:
        raise InputError("nothing was said yet", "save it later")
    from lavra.core.disk.json_lines import JsonLines

    path = Path(name).expanduser()
    try:
        JsonLines(path).append({"messages": conversation.messages})
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", "name another file") from error
    log(f"added to {path}, which `lavra train` reads")


def _answer(conversation: Conversation, text: str, out: TextIO) -> None:
    """Write the answer piece by piece; Ctrl-C stops it, and what was written of it is kept."""
    pieces = conversation.answer(text)
    show = printable if out.isatty() else str
    try:
        for piece in pieces:
            print(show(piece), end="", file=out, flush=True)
    except KeyboardInterrupt:
        log("\nstopped; what was written is kept")
    print(file=out, flush=True)
    if conversation.cut:
        log(f"the answer was cut after {conversation.options.max_new_tokens} tokens; raise --max-new-tokens")
