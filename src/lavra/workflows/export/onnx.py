"""Exporting a classifier of texts for ONNX Runtime, in float32 or with int8 weights; both are compared with the model.

The classifier is first written as the class of `transformers`, with its certificate. What ONNX Runtime computes of
texts is then compared with what that class computes.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import write_json
from lavra.core.disk.replacing import check_replaceable
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import CheckFailed, InputError
from lavra.data.readers.rows import OnBadRow
from lavra.models.certificate import FILE
from lavra.models.hf.kinds import quietly
from lavra.workflows.export.classifier import compared_texts
from lavra.workflows.export.export import export
from lavra.workflows.export.heads import head_kind
from lavra.workflows.models.open import open_model

Weights = Literal["float32", "int8"]
"""Type of the weights of the matrices."""

GRAPH = "model.onnx"
"""Name of the file of the exported model."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ALLOWED = 1e-3
"""Largest difference between two outputs in float32, relative to the largest output where that is above 1."""
_ALLOWED_INT8 = 0.1
"""Largest share of the texts for which rounded weights may predict another class."""


@dataclass(frozen=True)
class OnnxExport:
    """A classifier that was exported for ONNX Runtime.

    Attributes:
        folder: The new folder, with `model.onnx`, the tokenizer and the configuration.
        weights: Type of the weights.
        megabytes: Size of the model in MB.
        texts: Number of texts that were compared.
        largest_difference: Largest absolute difference between two outputs of the head.
        same_prediction: Share of the texts whose highest output is the same.
    """

    folder: Path
    weights: str
    megabytes: float
    texts: int
    largest_difference: float
    same_prediction: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "folder": str(self.folder), "format": "onnx"}

    def __str__(self) -> str:
        return (
            f"{self.folder}: a classifier for onnxruntime, {self.weights}, {self.megabytes:.1f} MB; its outputs for "
            f"{self.texts} texts differ by at most {self.largest_difference:.2g}, same prediction in "
            f"{self.same_prediction:.1%}"
        )


def export_onnx(
    model: str,
    out: str | Path,
    data: Sequence[str] = (),
    *,
    weights: Weights = "float32",
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
    force: bool = False,
) -> OnnxExport:
    """Write a classifier of texts as a folder with `model.onnx`, and compare it with the model.

    Args:
        model: The location of a model with a head for the labels of texts.
        out: The folder to write.
        data: Files of rows on which it is compared; validation texts of the run if empty.
        weights: Type of the weights; "int8" takes a quarter of the memory and is faster on processors.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.
        force: Whether an existing folder is replaced.

    Raises:
        InputError: If a package is missing, or the model labels no texts or has no class in `transformers`.
        CheckFailed: If the outputs differ; nothing is left at `out` then.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise InputError(f"--format onnx needs {', '.join(missing)}", "pip install 'lavra[onnx]'")
    out = Path(out)
    check_replaceable(out, force=force, inputs=[model, *data])
    opened = open_model(model, "cpu")
    if head_kind(opened.model) != "sequence":
        raise InputError(f"{model} has no head for the labels of texts", "--format onnx is for such models")
    texts = compared_texts(opened, data, on_bad_row, encoding)
    with scratch_folder() as home, building_folder(out, force=force, inputs=[model, *data], kind="onnx") as building:
        written = export(model, home / "hf", data, on_bad_row=on_bad_row, encoding=encoding).folder
        theirs, inputs = _outputs(written, texts)
        _convert(written, building / GRAPH, inputs)
        if weights == "int8":
            _round(building / GRAPH)
        for path in written.iterdir():
            if path.suffix not in (".safetensors", ".md") and path.name not in (FILE, ".lavra.json"):
                shutil.copy2(path, building / path.name)
        made = _compared(out, building, weights, theirs, inputs)
        write_json(building / FILE, made.to_json())
    return made


def _opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quietly():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, attn_implementation="eager"
        )
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _outputs(folder: Path, texts: Sequence[Sequence[str]]) -> tuple[NDArray[np.float32], dict[str, torch.Tensor]]:
    """Return the outputs of the class of `transformers` for texts, and the padded ids that it read."""
    model, tokenizer = _opened(folder)
    columns = [list(column) for column in zip(*texts, strict=True)]
    inputs = dict(tokenizer(*columns, padding=True, truncation=True, return_tensors="pt"))
    with torch.no_grad():
        return model(**inputs).logits.numpy(), inputs


class _Logits(nn.Module):
    """A model whose only output is its logits, with its inputs in one order."""

    def __init__(self, inner: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.inner, self.names = inner, list(names)

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.inner(**dict(zip(self.names, given, strict=True))).logits


@contextmanager
def _silence() -> Iterator[None]:
    """Keep warnings of the exporter, which concern its own code, from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _convert(folder: Path, path: Path, inputs: dict[str, torch.Tensor]) -> None:
    model, _ = _opened(folder)
    names = list(inputs)
    axes = {0: torch.export.Dim("texts", min=1), 1: torch.export.Dim("length", min=2)}
    with _silence(), torch.no_grad():
        torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(inputs.values()),
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(tuple(axes for _ in names),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _round(path: Path) -> None:
    """Round the weights of the matrices to int8."""
    library: Any = import_module("onnxruntime.quantization")
    rounded = path.with_name("rounded.onnx")
    with _silence():
        library.quantize_dynamic(str(path), str(rounded), weight_type=library.QuantType.QInt8, per_channel=True)
    rounded.replace(path)


def _compared(
    out: Path, folder: Path, weights: Weights, theirs: NDArray[np.float32], inputs: dict[str, torch.Tensor]
) -> OnnxExport:
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
    found: Any = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
    real = inputs["attention_mask"][0].bool()  # one text alone, so that other numbers and lengths are proved, too
    alone: Any = session.run(["logits"], {name: value[:1, real].numpy() for name, value in inputs.items()})[0]
    difference = float(max(np.abs(found - theirs).max(), np.abs(alone - theirs[:1]).max()))
    same = float((found.argmax(axis=1) == theirs.argmax(axis=1)).mean()) if theirs.shape[1] > 1 else 1.0
    megabytes = (folder / GRAPH).stat().st_size / 1e6
    made = OnnxExport(out, weights, megabytes, len(theirs), difference, same)
    holds = difference <= _ALLOWED * max(1.0, float(np.abs(theirs).max()))
    if not (holds if weights == "float32" else same >= 1 - _ALLOWED_INT8):
        raise CheckFailed(f"onnxruntime computes another model:\n{made}", "nothing was written; use --format hf")
    return made
