"""`lavra generate`: write text."""

from __future__ import annotations

import sys

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.generation import GenerateOptions
from lavra.config.inference import GenerateConfig
from lavra.core.errors import InputError
from lavra.core.program import command
from lavra.core.progress import log, printable
from lavra.core.units import counted


def main(arguments: list[str]) -> int:
    """Run `lavra generate …`."""
    options, as_json = parse(
        GenerateConfig,
        arguments,
        prog="lavra generate",
        description="Continue a prompt; one text is written as it is made.",
        examples=[
            'lavra generate runs/book "Era uma vez"',
            'lavra generate runs/book --prompt "Era uma vez" --samples 3 --temperature 0.7 --top-p 0.9 --seed 1',
            "lavra generate runs/book --greedy --max-new-tokens 50 --json",
            'lavra generate runs/book --prompt "Era" --beams 5 --samples 5 --max-new-tokens 20',
            "lavra generate runs/book --in prompts.jsonl --out texts.jsonl --samples 4",
            'lavra generate runs/filler --prefix "Era uma vez" --suffix "e viveram felizes."',
        ],
    )
    if bool(options.input) != bool(options.out):
        raise InputError("--in and --out belong together", "give both, or --prompt")
    if options.prefix is not None or options.suffix is not None:
        return _infilled(options, as_json)
    prompts = _prompts(options)
    if options.input:
        return _of_file(options, as_json)
    if not prompts and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        return _chat(options)
    return _written(options, prompts or ("",), as_json)


def _prompts(options: GenerateConfig) -> tuple[str, ...]:
    """Return the prompts that are given, in whichever way."""
    given = [name for name, there in (("PROMPT", options.text is not None), ("--prompt", options.prompt)) if there]
    given += ["--in"] if options.input else []
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are ways to give prompts", "give one of them")
    return options.prompt if options.text is None else (options.text,)


def _infilled(options: GenerateConfig, as_json: bool) -> int:
    """Write what is missing between two texts."""
    from lavra.workflows.generation.infill import infill

    if options.text is not None or options.prompt or options.input:
        raise InputError("--prefix and --suffix ask for what is between them", "leave out the prompt and --in")
    if options.engine == "ctranslate2":
        raise InputError("ctranslate2 does not fill in middles", "use --engine torch, or auto")
    pair = options.prefix or "", options.suffix or ""
    made = infill(options.model, [pair], options.options, device=options.device, precision=options.precision)
    if as_json:
        keys = ("sample", "text", "tokens", "reason", "score")
        values = [{key: getattr(one, key) for key in keys} for one in made]
        print_json({"prefix": pair[0], "suffix": pair[1], "generations": values})
    else:
        text = "\n\n---\n\n".join(pair[0] + one.text + pair[1] for one in made)
        print(printable(text) if sys.stdout.isatty() else text)
    return _told(sum(one.reason == "unfinished" for one in made), len(made), options.options)


def _where(options: GenerateConfig) -> dict[str, str]:
    return {"engine": options.engine, "device": options.device, "precision": options.precision}


def _of_file(options: GenerateConfig, as_json: bool) -> int:
    """Continue the prompts of a file."""
    from lavra.workflows.generation.generate import generate_file

    where = _where(options)
    counts = generate_file(options.model, options.input, options.out, options.options, force=options.force, **where)
    code = _told(counts["unfinished"], counts["texts"], options.options)
    if as_json:
        print_json({"out": options.out, **counts})
    else:
        show(f"{options.out}: {counted(counts['texts'], 'text')} ({counts['made']:,} generated now)")
        say_last(
            ("evaluate", command("evaluate", options.model, "--data", options.out)),
            ("train", command("train", options.out, "--budget", "20m")),
        )
    return code


def _chat(options: GenerateConfig) -> int:
    """Open a conversation, where the model is one for conversations."""
    from lavra.cli.chat import converse
    from lavra.workflows.generation.chat import chat_template_of, open_chat
    from lavra.workflows.models.open import open_language_model

    opened = open_language_model(options.model, options.device)
    if chat_template_of(opened) is None:
        raise InputError(
            "there is no prompt, and the model is none for conversations",
            f'give a text to continue: lavra generate {options.model} "Era uma vez"; --prompt "" begins a document',
        )
    converse(open_chat(opened, options.options, device=options.device, precision=options.precision), sys.stdout)
    return 0


def _written(options: GenerateConfig, prompts: tuple[str, ...], as_json: bool) -> int:
    """Write the texts: a single one piece by piece, as it is made."""
    from lavra.generation.engines.engine import generate_with
    from lavra.workflows.generation.engines import open_engine

    how = options.options.with_files_read()
    engine = open_engine(options.model, prompts, how, **_where(options))
    if not as_json and len(prompts) == 1 and how.samples == 1 and how.beams == 1 and not how.constrained:
        show = printable if sys.stdout.isatty() else str  # a pipe gets what the model wrote, byte for byte
        pieces = engine.stream(prompts[0], how)
        first = next(pieces, "")  # before anything is written, so that what is wrong is said alone
        sys.stdout.write(show(prompts[0] + first if engine.continues else first))
        for piece in pieces:
            sys.stdout.write(show(piece))
            sys.stdout.flush()
        print()
        return 0
    made = generate_with(engine, prompts, how)
    if as_json:
        keys = ("prompt", "sample", "text", "tokens", "reason", "score")
        print_json({"generations": [{key: getattr(one, key) for key in keys} for one in made]})
    else:
        text = "\n\n---\n\n".join((one.prompt if engine.continues else "") + one.text for one in made)
        print(printable(text) if sys.stdout.isatty() else text)
    return _told(sum(one.reason == "unfinished" for one in made), len(made), how)


def _told(count: int, texts: int, how: GenerateOptions) -> int:
    """Say how many texts do not satisfy their constraint, and return the exit code: 1 where there are some."""
    if not count:
        return 0
    from lavra.generation.generate import unfinished

    log(unfinished(count, texts, how))
    return 1
