"""Generating text with a model: for prompts in memory, as a stream, and for the prompts of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lavra.config.generation import GenerateOptions
from lavra.core.disk.files import write_atomically
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.errors import NO_SPACE, InputError, LavraError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.readers.lines import read_records, text
from lavra.generation.engines.engine import generate_with
from lavra.generation.generate import Generation
from lavra.workflows.generation.engines import open_engine


def generate(
    model: str,
    prompts: Sequence[str],
    options: GenerateOptions | None = None,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> list[Generation]:
    """Continue prompts with a model.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        prompts: The prompts; an empty one starts a new document.
        options: How to generate; the defaults of `GenerateOptions` if None.
        engine: Library that computes: "auto", "torch" or "ctranslate2"; for the rule of "auto" see
            `lavra.workflows.generation.engines.open_engine`.
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: auto, fp32, bf16, fp16 or int8.

    Returns:
        The generated texts: `samples` of them for each prompt, in the order of the prompts.

    Raises:
        InputError: If there is no such model, or a prompt does not fit its context.

    Examples:
        >>> import lavra
        >>> from lavra.config.generation import GenerateOptions
        >>> options = GenerateOptions(max_new_tokens=20, seed=1)
        >>> lavra.generate("runs/book", ["Era uma vez"], options)[0].text   # doctest: +SKIP
    """
    options = (options or GenerateOptions()).with_files_read()
    chosen = open_engine(model, prompts, options, engine=engine, device=device, precision=precision)
    return generate_with(chosen, prompts, options)


def stream(
    model: str,
    prompt: str,
    options: GenerateOptions | None = None,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[str]:
    """Yield the continuation of one prompt piece by piece, while it is generated.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        prompt: The text to continue.
        options: How to generate; the defaults of `GenerateOptions` if None.
        engine: Library that computes, as for `generate`.
        device: Device that computes, as for `generate`.
        precision: Type of the weights, as for `generate`.

    Yields:
        Pieces of text, which together are the continuation.

    Raises:
        InputError: If there is no such model, or the prompt does not fit its context.
    """
    options = (options or GenerateOptions()).with_files_read()
    chosen = open_engine(model, [prompt], options, engine=engine, device=device, precision=precision)
    yield from chosen.stream(prompt, options)


# Continuing the prompts of a file, into a file that the same command completes after an interruption.


def generate_file(
    model: str,
    source: str,
    out: str,
    options: GenerateOptions | None = None,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    force: bool = False,
) -> dict[str, int]:
    """Continue every prompt of a JSON Lines file, and write the texts into another one.

    Each text is written when it is finished, and a second call with the same request makes only what is missing. At the
    end the lines are in the order of the prompts. A line has `row` (number of the prompt, from 0), `sample`, `prompt`,
    `text`, `tokens`, `reason`, `score` and `request`, which is a hash of the model's name and the options.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        source: A file with one JSON object in each line, whose "prompt" is continued.
        out: The file of JSON Lines that gets the texts.
        options: How to generate; the defaults of `GenerateOptions` if None.
        engine: Library that computes: "auto", "torch" or "ctranslate2"; see
            `lavra.workflows.generation.engines.open_engine`.
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: auto, fp32, bf16, fp16 or int8.
        force: Whether to replace a file that holds the texts of another request.

    Returns:
        A dictionary with the number of `texts` in the file, of those `made` by this call, and of the `unfinished` ones,
        which ended before they satisfied their constraint.

    Raises:
        InputError: If the source cannot be used, or `out` holds the texts of another request.
        LavraError: If the disk is full; the message says what `out` holds.
    """
    options = (options or GenerateOptions()).with_files_read()
    check_replaceable_file(Path(out), force=True, inputs=[source])  # texts of the same request are gone on with
    prompts = [record["prompt"] for record in read_records(source, {"prompt": text})]
    request = hashlib.blake2b(one_line([model, engine, precision, asdict(options)]).encode(), digest_size=8).hexdigest()
    lines = JsonLines(Path(out))
    done = _done(lines, prompts, request, force)
    complete = {row for row, count in _counts(done).items() if count >= options.samples}
    waiting = [number for number in range(len(prompts)) if number not in complete]
    lines.keep(lambda line: line["row"] in complete)
    made = 0
    try:
        if waiting:
            if complete:
                log(f"{out} has the texts of {len(complete):,} of {counted(len(prompts), 'prompt')} already")
            texts = [prompts[row] for row in waiting]
            chosen = open_engine(model, texts, options, engine=engine, device=device, precision=precision)
            for (number, _), one in chosen.generate_each(texts, options):
                lines.append({"row": waiting[number], **asdict(one), "request": request})
                made += 1
        written = sorted(lines.read(), key=lambda line: (line["row"], line["sample"]))
        write_atomically(Path(out), "".join(one_line(line) + "\n" for line in written))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _full(lines, len(prompts), options.samples, error) from error
        raise
    unfinished = sum(line["reason"] == "unfinished" for line in written)
    return {"texts": len(written), "made": made, "unfinished": unfinished}


def _full(lines: JsonLines, prompts: int, samples: int, error: OSError) -> LavraError:
    """Return the error for a full disk, which counts the whole lines, after an incomplete last one was removed."""
    whole = lines.drop_half_line()
    complete = sum(count >= samples for count in _counts(lines.read()).values())
    return LavraError(
        f"DISK FULL: could not write to {lines.path} ({error.strerror}). It has {counted(whole, 'whole line')}, in the "
        f"order in which the texts were made: all texts of {complete:,} of {counted(prompts, 'prompt')}",
        "make room on that disk, and give the same command again: it makes only what is missing, and puts the lines in "
        "the order of the prompts",
    )


def _done(lines: JsonLines, prompts: list[str], request: str, force: bool) -> list[dict[str, Any]]:
    """Return the lines that an earlier call wrote."""
    found = lines.read()
    for line in found:
        row = line.get("row", -1)
        same = 0 <= row < len(prompts) and line.get("prompt") == prompts[row] and line.get("request") == request
        if same:
            continue
        if not force:
            raise InputError(
                f"{lines.path} holds the texts of another request", "choose another --out, or --force to begin anew"
            )
        lines.path.unlink()
        return []
    return found


def _counts(lines: list[dict[str, Any]]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for line in lines:
        counts[line["row"]] = counts.get(line["row"], 0) + 1
    return counts
