"""`lavra check`: the proof that the training is right."""

from __future__ import annotations

from pathlib import Path

from lavra.cli.options import parse, print_json, say_last
from lavra.config.runs import CheckConfig
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.program import command, without_display_flags


def main(arguments: list[str]) -> int:
    """Run `lavra check …`; the exit code is 1 when a check failed."""
    options, as_json = parse(
        CheckConfig,
        arguments,
        prog="lavra check",
        description="Prove a training set-up right before time is spent on it: first loss, leaks of the future and of "
        "other documents, padding, accumulation, gradients, labels as text, tokenizer, saving, resuming, precision, "
        "speed, copies in the validation text, the hashes of prepared data. The model is the one that `lavra train` "
        "would train. Exit code 1 when a check failed.",
        examples=[
            "lavra check mytext/",
            "lavra check mytext/ --model gpt2-124m --json",
            "lavra check questions.jsonl --from t5-small",
            "lavra check runs/book",
        ],
    )
    from lavra.workflows.check import check

    report = check(options.training, options.time_limit)
    if as_json:
        print_json(report.to_json())
    else:
        print(report.text())
        kept = command("check", *without_display_flags(arguments), "--json")
        say_last(
            ("result", f"printed above, and not kept; {kept} > checks.json keeps it"),
            _next(options, arguments, bool(report.failed)),
        )
    return 1 if report.failed else 0


def _next(options: CheckConfig, arguments: list[str], failed: bool) -> tuple[str, str]:
    """Return the command that a person wants next: the same check after a failure, else training or generating."""
    words = without_display_flags(arguments)
    if failed:
        return "check again", command("check", *words)
    if len(options.data) == 1 and is_run(Path(options.data[0])):
        verb = "generate" if RunFolder(options.data[0]).status == "finished" else "resume"
        return ("generate" if verb == "generate" else "continue"), command(verb, options.data[0])
    return "train", command("train", *words, "--budget", "20m")
