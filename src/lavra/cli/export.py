"""`lavra export`: a model for the rest of the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.inference import ExportConfig
from lavra.core.errors import InputError
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra export …`."""
    options, as_json = parse(
        ExportConfig,
        arguments,
        prog="lavra export",
        description="Write a model as a folder of the field's most common format, open it with transformers in a fresh "
        "process, and compare the logits. The folder is kept only if they are the same.",
        examples=[
            "lavra export runs/book --out exported/book",
            "lavra export gpt2 --out exported/gpt2",
            "lavra export runs/questions --format onnx --quantization int8 --out exported/questions-int8",
            "lavra export gpt2 --format ct2 --quantization int8 --out exported/gpt2-int8",
            "lavra export runs/encoder --format sentence-transformers --out exported/encoder",
            "lavra export runs/encoder --format static --data news.jsonl --out exported/static",
        ],
    )
    if options.format in ("sentence-transformers", "static"):
        return _vectors(options, as_json)
    if options.format == "ct2":
        from lavra.workflows.export.ctranslate import export_ctranslate2

        if options.data:
            raise InputError("--data is for --format hf", "leave it out: ct2 is proved on tokens drawn at random")
        converted = export_ctranslate2(
            options.model, options.out, quantization=options.quantization, force=options.force
        )
        if as_json:
            print_json(converted.to_json())
        else:
            show(str(converted))
            say_last(("open", f"ctranslate2.Generator({str(converted.folder)!r}), or Translator"))
        return 0
    if options.format == "onnx":
        from lavra.workflows.export.onnx import GRAPH, export_onnx

        if options.quantization not in ("int8", "float32"):
            raise InputError(f"--quantization {options.quantization} is for ct2", "choose int8 or float32")
        graph = export_onnx(
            options.model,
            options.out,
            options.data,
            weights=options.quantization,
            on_bad_row=options.text.on_bad_row,
            encoding=options.text.encoding,
            force=options.force,
        )
        if as_json:
            print_json(graph.to_json())
        else:
            show(str(graph))
            say_last(("open", f"onnxruntime.InferenceSession({str(graph.folder / GRAPH)!r})"))
        return 0
    from lavra.workflows.export.export import export

    made = export(
        options.model,
        options.out,
        options.data,
        text_column=options.text.column,
        on_bad_row=options.text.on_bad_row,
        encoding=options.text.encoding,
        force=options.force,
    )
    if as_json:
        print_json(made.to_json())
    else:
        show(f"{made.folder}: a {made.family} model\n{made.certificate}")
        if made.merged is not None:
            difference = made.merged["largest_difference"]
            show(f"  what was added to its base was merged: logits differ by at most {difference:.2e}")
        say_last(*_next(made.folder))
    return 0


def _vectors(options: ExportConfig, as_json: bool) -> int:
    """Export an encoder of texts."""
    how: dict[str, Any] = {
        "text_column": options.text.column,
        "on_bad_row": options.text.on_bad_row,
        "encoding": options.text.encoding,
        "force": options.force,
    }
    if options.format == "static":
        from lavra.workflows.export.static import export_static

        data = list(options.data)
        how |= {"dimensions": options.dimensions, "tune": options.tune}
        made = export_static(options.model, options.out, data, **how)
    else:
        from lavra.workflows.export.sentence_transformers import export_sentence_transformers

        made = export_sentence_transformers(options.model, options.out, options.data, **how)
    if as_json:
        print_json(made.to_json())
        return 0
    show(f"{made.folder}: vectors of {made.certificate.dimensions:,} dimensions\n{made.certificate}")
    embed = ("embed", command("embed", made.folder, "TEXTS", "--out", "vectors.npy"))
    say_last(("result", str(made.folder)), ("open", f"SentenceTransformer({str(made.folder)!r})"), embed)
    return 0


def _next(folder: Path) -> list[tuple[str, str]]:
    """Return the commands that a person wants next, by what the exported model is for."""
    from lavra.core.disk.files import read_json
    from lavra.tasks.labelled_text import LabelledTextTask
    from lavra.tasks.table import find_task
    from lavra.workflows.models.task_head import HEAD_FILE

    if not (folder / HEAD_FILE).is_file():
        evaluate = ("evaluate", command("evaluate", folder, "--data", "TEXT"))
        return [("generate", command("generate", folder, "--prompt", "…")), evaluate]
    evaluate = ("evaluate", command("evaluate", folder, "--data", "FILE"))
    of_texts = isinstance(find_task(read_json(folder / HEAD_FILE)["task"]), LabelledTextTask)
    return [("classify", command("classify", folder, "--text", "…")), evaluate] if of_texts else [evaluate]
