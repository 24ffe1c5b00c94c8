"""Exporting a model as a folder that `transformers` opens, with the proof that it is the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable, was_made_by
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import CheckFailed, InputError
from lavra.core.progress import log
from lavra.core.seeds import numpy_stream
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import OnBadRow
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.certificate import FILE, SENTENCES, Certificate, certify
from lavra.models.families.companions import (
    TOKENIZER_CONFIG,
    carried_config,
    generation_settings,
    has_tokenizer,
    lost_companions,
    read_origin,
    special_ids,
    write_companions,
)
from lavra.models.families.exporting import SpecialIds, export_decoder
from lavra.models.families.importing import read_config
from lavra.models.head_certificate import HeadCertificate, certify_head
from lavra.models.heads import ATTRIBUTE
from lavra.models.hf.folders import write_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.building import count_parameters
from lavra.models.native.decoder import Decoder
from lavra.tasks.table import find_task
from lavra.workflows.export.classifier import compared_texts, write_classifier
from lavra.workflows.export.heads import head_kind, write_head_class
from lavra.workflows.export.model_card import hf_model_card, model_card
from lavra.workflows.export.token_head import leave_out_token_head
from lavra.workflows.models.open import OpenModel, hugging_face_folder, open_model, read_hugging_face
from lavra.workflows.models.task_head import write_head

COMPARED_TOKENS = 512
"""Most tokens whose logits are compared."""

_COMPARED_LOGITS = 32_000_000
"""Most logits that are compared, tokens times vocabulary, so that the comparison takes little memory."""


@dataclass(frozen=True)
class Export:
    """A model that was exported for `transformers`.

    Attributes:
        folder: The new folder.
        family: The `model_type` of the exported model.
        certificate: The comparison of the exported model, opened by `transformers`, with lavra's: of logits, or of the
            outputs of the head of its task.
        of_source: The comparison of the folder that the model was read from with lavra's model; None for a model that
            lavra trained from scratch.
        merged: How far the merged model is from the trained one, for a run with an adapter; else None.
    """

    folder: Path
    family: str
    certificate: Certificate | HeadCertificate
    of_source: Certificate | None
    merged: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "family": self.family,
            **_certificates(self.certificate, self.of_source, self.merged),
        }


def export(
    model: str,
    out: str | Path,
    data: Sequence[str] = (),
    *,
    text_column: str = "text",
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
    force: bool = False,
) -> Export:
    """Write a model as a Hugging Face folder, open it with `transformers` in a fresh process, and compare the logits.

    Args:
        model: The location of the model: a run, a checkpoint, a model folder, a Hugging Face folder, a hub name or a
            llama2.c file.
        out: The folder to write.
        data: Locations of text on which the logits are compared; some sentences that come with lavra if empty.
        text_column: Column of the data that holds the text.
        on_bad_row: What to do with rows that cannot be used; see `lavra.data.readers.documents.read_rows`.
        encoding: Encoding of the files; None recognises it.
        force: Whether an existing folder is replaced.

    Returns:
        What was exported, with the comparison.

    Raises:
        InputError: If there is no such model, or no architecture of `transformers` expresses it exactly.
        CheckFailed: If the logits of the exported model differ; nothing is left at `out` then.
    """
    out = Path(out)
    check_replaceable(out, force=force or (out / FILE).exists(), inputs=[model, *data])
    source = _open(model)
    of_texts = head_kind(source.model) == "sequence"
    texts = compared_texts(source.opened, data, on_bad_row, encoding) if of_texts and source.opened else []
    rows = read_rows(
        () if texts else data, text_column=text_column, on_bad_row=on_bad_row, encoding=encoding, wanted=()
    )
    windows = _windows(source, (row.text for row in rows) if data and not texts else SENTENCES)
    read = windows if source.model.kind == "encoder-decoder" else ()
    merged = None if source.run is None else source.run.result.get("folded")
    of_source = None
    request = _request(source, [windows, [list(one) for one in texts]])
    if not force and was_made_by(out, request):
        log(f"{out} holds this export already, whole")
        return _made_before(out)
    changed = source.run is not None and not isinstance(source.model, Decoder)
    if source.folder is not None and not changed and not hasattr(source.model, ATTRIBUTE):
        of_source = certify(source.model, source.folder, windows, sources=read)
        _demand(of_source, f"{source.folder} is not read as transformers reads it")
    with building_folder(out, request=request, force=force, inputs=[model, *data], kind="exported model") as building:
        family, tied = _write(source, building)
        certificate = _completed(source, building, windows, read, texts, tied)
        lost = lost_companions(building, source.files)
        # A classifier writes no text, and may have been given a token for padding.
        lost = (
            tuple(one for one in lost if "generation_config" not in one and "pad_token" not in one) if texts else lost
        )
        certificate = replace(certificate, lost=lost)
        _demand(certificate, f"{model} was not exported as it is")
        if source.run is not None and source.run.plan and not find_task(source.run.plan["task"]).keeps_head:
            leave_out_token_head(building)  # after the comparison, which is of its outputs
        write_json(building / FILE, _certificates(certificate, of_source, merged))
        write_atomically(building / "README.md", _card(source, out.name, family, certificate))
    return Export(out, family, certificate, of_source, merged)


def _completed(
    source: _Source,
    folder: Path,
    windows: list[list[int]],
    read: Sequence[list[int]],
    texts: Sequence[Sequence[str]],
    tied: bool,
) -> Certificate | HeadCertificate:
    """Write the head of a task and the tokenizer beside the weights of a model, and compare the folder with it."""
    if texts and source.opened is not None:
        _write_tokenizer(source, folder)
        return write_classifier(source.opened, folder, texts)
    in_class = _write_head(source, folder)
    _write_tokenizer(source, folder)
    if in_class:
        return certify_head(source.model, folder, windows, str(head_kind(source.model)))
    with _as_language_model(source.model):
        return certify(source.model, folder, windows, sources=read, tied=tied)


def _request(source: _Source, compared: list[Any]) -> str:
    """Return a fingerprint of everything that the exported folder depends on, with what it is compared on."""
    digest = hashlib.blake2b(digest_size=16)
    tokenizer = None if source.tokenizer is None else source.tokenizer.fingerprint
    about = [version("lavra"), source.family, str(source.folder), tokenizer, compared]
    digest.update(one_line(about).encode())
    for name, tensor in sorted(source.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _made_before(folder: Path) -> Export:
    values = read_json(folder / FILE)
    of_source = Certificate.from_json(values["of_source"]) if "of_source" in values else None
    family, found = read_config(folder)["model_type"], values["certificate"]
    certificate = (HeadCertificate if "largest_output" in found else Certificate).from_json(found)
    return Export(folder, family, certificate, of_source, values.get("folded"))


def _write_head(source: _Source, folder: Path) -> bool:
    """Write the head of a task, for lavra and where it can be for `transformers`; return whether it could."""
    if source.opened is None or source.opened.task is None:
        return False
    task, facts = source.opened.task
    in_class = head_kind(source.model) is not None and write_head_class(folder, source.model, facts)
    write_head(folder, source.model, {}, task, facts)
    return in_class


@contextmanager
def _as_language_model(model: Decoder | HFModel) -> Iterator[None]:
    """Let the features of a model be those of its language-model head during the block."""
    before, model.for_task_head = model.for_task_head, False
    try:
        yield
    finally:
        model.for_task_head = before


def _write(source: _Source, folder: Path) -> tuple[str, bool]:
    """Write configuration and weights; return the family, and whether the head is tied."""
    if isinstance(source.model, HFModel):
        write_hf_model(folder, source.model)
        return source.model.inner.config.model_type, source.model.tied
    exported = export_decoder(
        folder,
        source.model,
        _ids(source),
        source.family,
        carried=carried_config(source.files),
        generation=generation_settings(source.files),
    )
    return exported.family, exported.spec.tied


def _card(source: _Source, name: str, family: str, certificate: Certificate | HeadCertificate) -> str:
    result = source.run.result if source.run is not None else {}
    parameters = count_parameters(source.model)
    task = None if source.opened is None else source.opened.task
    head = head_kind(source.model) if isinstance(certificate, HeadCertificate) else None
    if isinstance(source.model, HFModel):
        return hf_model_card(name, family, source.model, parameters, certificate, result, head=head, task=task)
    return model_card(name, family, source.model.spec, parameters, certificate, result, head=head, task=task)


def _certificates(
    certificate: Certificate | HeadCertificate, of_source: Certificate | None, merged: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "certificate": certificate.to_json(),
        **({} if of_source is None else {"of_source": of_source.to_json()}),
        **({} if merged is None else {"folded": merged}),
    }


def _demand(certificate: Certificate | HeadCertificate, what: str) -> None:
    if not certificate.holds:
        raise CheckFailed(f"{what}:\n{certificate}", "nothing was written; report this with the model's config.json")


@dataclass(frozen=True)
class _Source:
    """The model to export. A Hugging Face folder without a tokenizer is exported without one."""

    model: Decoder | HFModel
    tokenizer: Tokenizer | None
    opened: OpenModel | None
    family: str | None
    folder: Path | None
    files: Path | None

    @property
    def run(self) -> RunFolder | None:
        return None if self.opened is None else self.opened.run


def _open(location: str) -> _Source:
    folder = hugging_face_folder(location)
    if folder is not None and not has_tokenizer(folder):
        model = read_hugging_face(folder).eval()
        log(f"{folder} has no tokenizer; the export will have none, and is compared on random tokens")
        return _Source(model, None, None, str(read_config(folder).get("model_type")), folder, folder)
    opened = open_model(location, "cpu")
    return _Source(opened.model, opened.tokenizer, opened, opened.family, opened.folder, opened.files)


def _ids(source: _Source) -> SpecialIds:
    origin = read_origin(source.files)
    if origin:
        return special_ids(origin)
    if source.tokenizer is None:
        return {}
    return {"bos_token_id": source.tokenizer.document_bos, "eos_token_id": source.tokenizer.end_of_document}


def _write_tokenizer(source: _Source, folder: Path) -> None:
    """Write the tokenizer; one that lavra trained also gets the context length of the model in its settings."""
    if source.tokenizer is None:
        return
    write_companions(folder, source.tokenizer, source.files, ours=False)
    if not read_origin(source.files):
        settings = folder / TOKENIZER_CONFIG
        asked = {"model_max_length": source.model.context, "model_input_names": ["input_ids", "attention_mask"]}
        write_json(settings, {**read_json(settings), **asked})


def _windows(source: _Source, texts: Iterable[str]) -> list[list[int]]:
    """Return the token sequences on which logits are compared: documents, each after a beginning-of-text token."""
    model = source.model
    left = max(min(COMPARED_TOKENS, _COMPARED_LOGITS // model.vocabulary), 16)
    longest = min(model.context, left)
    if source.tokenizer is None:
        drawn = numpy_stream(0, "tokens of a certificate").integers(model.vocabulary, size=longest)
        return [drawn.tolist()]
    windows: list[list[int]] = []
    for text in texts:
        ids = [source.tokenizer.document_bos, *source.tokenizer.encode(text[: 16 * left])][:left]
        parts = [ids[start : start + longest] for start in range(0, len(ids), longest)]
        windows += [part for part in parts if len(part) > 1]
        left -= len(ids)
        if left <= 1:
            break
    if not windows:
        raise InputError("there is no text to compare on", "check the --data locations")
    return windows
