"""Exporting a model for CTranslate2; the conversion is compared with the model before the weights are quantised."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable, was_made_by
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.generation.engines.converting import (
    Convertible,
    convert,
    fingerprint,
    log_probabilities,
    why_not_convertible,
)
from lavra.models.certificate import SENTENCES
from lavra.models.families.companions import write_tokenizer
from lavra.workflows.models.open import open_language_model

Quantization = Literal["int8", "int8_float32", "int8_bfloat16", "int8_float16", "bfloat16", "float16", "float32"]

_REMEDY = (
    "write it with --format hf, which transformers opens; a model that CTranslate2 computes has a shape of one of its "
    "families, such as lavra train … --model gpt2-124m"
)
"""What to do where CTranslate2 does not compute a model."""

FILE = "quantization.json"
"""Name of the file in the exported folder that says how far the quantised model is from the original."""


@dataclass(frozen=True)
class CTranslate2Export:
    """A model that was exported for CTranslate2.

    Attributes:
        folder: The new folder.
        quantization: The type of the weights.
        megabytes: The size of the weights in MB.
        difference: Mean absolute difference in nats between the log-probabilities of tokens under the quantised model
            and under the original, on some sentences.
        tokens: Number of tokens on which the difference was measured.
    """

    folder: Path
    quantization: str
    megabytes: float
    difference: float
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "format": "ct2",
            "quantization": self.quantization,
            "megabytes": round(self.megabytes, 1),
            "log_probability_difference": self.difference,
            "tokens": self.tokens,
        }

    @classmethod
    def from_json(cls, folder: Path, values: dict[str, Any]) -> CTranslate2Export:
        """Return what was exported into a folder, from the values that `to_json` gave.

        Args:
            folder: The folder.
            values: Plain values.
        """
        difference, tokens = values["log_probability_difference"], values["tokens"]
        return cls(folder, values["quantization"], values["megabytes"], difference, tokens)

    def __str__(self) -> str:
        return (
            f"{self.folder}: a model for ctranslate2, {self.quantization}, {self.megabytes:.1f} MB; in float32 equal "
            f"to the original, and quantised {self.difference:.2g} nats from it on average "
            f"(over {counted(self.tokens, 'token')})"
        )


def export_ctranslate2(
    model: str, out: str | Path, *, quantization: Quantization = "int8", force: bool = False
) -> CTranslate2Export:
    """Write a model as a folder that `ctranslate2.Generator` or `ctranslate2.Translator` opens, with its tokenizer.

    Args:
        model: The location of the model: a run, a checkpoint, a model folder, a Hugging Face folder, a hub name or a
            llama2.c file.
        out: The folder to write.
        quantization: The type of the weights.
        force: Whether an existing folder is replaced.

    Returns:
        What was exported, and how far the quantised model is from the original.

    Raises:
        InputError: If there is no such model, or CTranslate2 does not support its architecture.
        LavraError: If the conversion is not the same model; nothing is left at `out` then.
    """
    out = Path(out)
    check_replaceable(out, force=force or (out / FILE).exists(), inputs=[model])
    opened = open_language_model(model, "cpu")
    source = Convertible(opened.model, opened.tokenizer, opened.family)
    reason = why_not_convertible(source)
    if reason is not None:
        raise InputError(f"{model} cannot be written for ctranslate2: {reason}", _REMEDY)
    request = one_line([version("lavra"), fingerprint(source), quantization])
    if not force and was_made_by(out, request):
        log(f"{out} holds this export already, whole")
        return CTranslate2Export.from_json(out, read_json(out / FILE))
    with building_folder(out, request=request, force=force, inputs=[model], kind="model for ctranslate2") as building:
        convert(source, building, quantization, _REMEDY)
        write_tokenizer(building, opened.tokenizer, opened.files)
        difference, tokens = _difference(source, building)
        size = sum(file.stat().st_size for file in building.glob("model.bin")) / 1e6
        made = CTranslate2Export(out, quantization, size, difference, tokens)
        write_json(building / FILE, {key: value for key, value in made.to_json().items() if key != "folder"})
    return made


def _difference(source: Convertible, folder: Path) -> tuple[float, int]:
    ids = [one for text in SENTENCES for one in source.tokenizer.encode(text)]
    length = min(len(ids) - 1, source.model.context - 2, 128)
    before = ids[:length] if source.is_sequence_to_sequence else [source.tokenizer.document_bos]
    ours, theirs = log_probabilities(source, folder, before, ids[-length:], compute_type="default")
    return float((ours - theirs).abs().mean()), length
