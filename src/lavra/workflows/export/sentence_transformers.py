"""Exporting an encoder of texts as a folder that `sentence-transformers` opens, with the proof of the same vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable, was_made_by
from lavra.core.errors import CheckFailed, InputError
from lavra.core.progress import log
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import OnBadRow
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.certificate import FILE, SENTENCES
from lavra.models.families.companions import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    carried_config,
    read_origin,
    special_ids,
    write_tokenizer,
)
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import CONFIG
from lavra.models.heads import EmbeddingHead
from lavra.models.hf.kinds import body_of, quietly
from lavra.models.native.decoder import Decoder
from lavra.models.reference import ATTENTION_KEYS
from lavra.models.vector_certificate import VectorCertificate, certify_vectors, demand_sentence_transformers
from lavra.vectors.protocols import TextEncoder
from lavra.vectors.reading import KINDS
from lavra.vectors.sentence_folder import (
    SentenceHead,
    write_about,
    write_dense,
    write_longest,
    write_modules,
    write_pooling,
)
from lavra.workflows.embeddings.open_encoder import EncoderParts, encoder_of, open_parts

COMPARED_TEXTS = 64
"""Most texts whose vectors are compared, for each kind."""

_SHORT = ("o rio", "A", "One day, a letter.", "naïve café 🙂")
"""Texts that are compared beside whole sentences."""


@dataclass(frozen=True)
class VectorExport:
    """An encoder of texts that was exported.

    Attributes:
        folder: The new folder.
        format: The format: `sentence-transformers` or `static`.
        certificate: The comparison of its vectors with lavra's.
        facts: What else is to be known of it, as plain values.
    """

    folder: Path
    format: str
    certificate: VectorCertificate
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "format": self.format,
            "certificate": self.certificate.to_json(),
            **self.facts,
        }


def export_sentence_transformers(
    model: str,
    out: str | Path,
    data: Iterable[str] = (),
    *,
    text_column: str = "text",
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
    force: bool = False,
) -> VectorExport:
    """Write an encoder as a folder of sentence-transformers, open it in a fresh process, and compare the vectors.

    Args:
        model: The location of the model, as for `open_encoder`.
        out: The folder to write.
        data: Locations of texts on which the vectors are compared; some sentences that come with lavra if empty.
        text_column: Column of the data that holds the text.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.
        force: Whether an existing folder is replaced.

    Returns:
        What was exported, with the comparison.

    Raises:
        InputError: If there is no such model, or sentence-transformers does not compute the same: it lacks the pooling,
            or no family of `transformers` expresses the decoder exactly.
        CheckFailed: If the vectors differ; nothing is left at `out` then.
        LavraError: If sentence-transformers is not installed.
    """
    out, data = Path(out), list(data)
    demand_sentence_transformers()
    check_replaceable(out, force=force or (out / FILE).exists(), inputs=[model, *data])
    parts = open_parts(model)
    texts = compared_texts(data, text_column, on_bad_row, encoding)
    request = one_line([version("lavra"), "sentence-transformers", parts.fingerprint(parts.size), texts])
    if not force and was_made_by(out, request):
        log(f"{out} holds this export already, whole")
        return read_export(out, "sentence-transformers")
    with building_folder(out, request=request, force=force, inputs=[model, *data], kind="exported model") as building:
        family = _write(parts, building)
        encoder = encoder_of(parts, device="cpu", precision="fp32", dimensions=parts.size)
        facts = {"family": family, "dimensions": encoder.dimensions, "prompts": dict(parts.prompts)}
        return certified(encoder, building, out, "sentence-transformers", texts, facts)


def compared_texts(
    data: list[str], text_column: str, on_bad_row: OnBadRow = "skip", encoding: str | None = None
) -> list[str]:
    """Return texts on which vectors are compared.

    Args:
        data: Locations of texts; sentences that come with lavra if empty.
        text_column: Column of the data that holds the text.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.
    """
    if not data:
        return [*SENTENCES, *_SHORT]
    rows = read_rows(data, text_column=text_column, on_bad_row=on_bad_row, encoding=encoding, wanted=())
    return [row.text for row in islice(rows, COMPARED_TEXTS)]


def certified(
    encoder: TextEncoder, building: Path, out: Path, form: str, texts: list[str], facts: dict[str, Any]
) -> VectorExport:
    """Compare a folder with the encoder that it was written from, and write the certificate and the card into it.

    Args:
        encoder: The encoder.
        building: The folder, which is not yet in its place.
        out: Its place.
        form: The format.
        texts: The texts that are compared.
        facts: What else is to be known of it, as plain values.

    Raises:
        CheckFailed: If the vectors differ.
    """
    ours: dict[str, Any] = {kind: encoder.encode(texts, kind=kind) for kind in KINDS}
    certificate = certify_vectors(ours, building, {str(kind): texts for kind in KINDS})
    if not certificate.holds:
        raise CheckFailed(f"the model was not exported as it is:\n{certificate}", "nothing was written; report this")
    write_json(building / FILE, {"certificate": certificate.to_json(), "facts": facts})
    write_atomically(building / "README.md", _card(out.name, certificate, facts))
    return VectorExport(out, form, certificate, facts)


def read_export(folder: Path, form: str) -> VectorExport:
    """Return what was exported into a folder before.

    Args:
        folder: The folder.
        form: The format.
    """
    values = read_json(folder / FILE)
    found = {**values["certificate"], "kinds": tuple(values["certificate"]["kinds"])}
    return VectorExport(folder, form, VectorCertificate.from_json(found), values["facts"])


def _write(parts: EncoderParts, folder: Path) -> str:
    """Write model, tokenizer and modules; return the `model_type` of the model."""
    head, modules = parts.head, [("Transformer", ""), ("Pooling", "1_Pooling")]
    pooler = head if isinstance(head, EmbeddingHead) else head.pooler if isinstance(head, SentenceHead) else None
    if pooler is None:
        raise InputError(f"sentence-transformers has no {type(head).__name__}", "use the model with lavra")
    layers = _layers(head)
    modules += [("Dense", f"{number}_Dense") for number in range(2, 2 + len(layers))]
    modules += [("Normalize", f"{len(modules)}_Normalize")] if parts.normalise else []
    write_modules(folder, modules)
    write_pooling(folder / "1_Pooling", pooler.options["pooling"], pooler.width, prompt=parts.pool_prompt)
    for number, layer in enumerate(layers, start=2):
        write_dense(folder / f"{number}_Dense", *layer)
    write_about(folder, parts.prompts, normalise=parts.normalise)
    write_longest(folder, parts.longest)
    family = _write_model(parts, folder)
    _write_tokenizer(parts, folder)
    return family


def _layers(head: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor | None, torch.nn.Module]]:
    """Return weight, bias and activation of each linear layer after the pooling."""
    if isinstance(head, EmbeddingHead):
        return [] if head.output is None else [(head.output.weight, None, torch.nn.Identity())]
    assert isinstance(head, SentenceHead)
    return [(layer.weight, layer.bias, layer.activation) for layer in head.layers]  # pyright: ignore[reportReturnType]


def _write_model(parts: EncoderParts, folder: Path) -> str:
    """Write the body of the model, as `AutoModel` opens it."""
    model, files = parts.model, parts.files
    if isinstance(model, Decoder):
        origin = read_origin(files)
        ids = special_ids(origin) or {"eos_token_id": parts.tokenizer.end_of_document}
        found = export_decoder(folder, model, ids, origin.get("model_type"), carried=carried_config(files))
        (folder / GENERATION_CONFIG).unlink(missing_ok=True)
        return found.family
    with quietly():
        body_of(model.inner).save_pretrained(folder)
    _complete(folder)
    config: Any = read_json(folder / CONFIG)
    write_json(folder / CONFIG, {key: value for key, value in config.items() if key not in ATTENTION_KEYS})
    return str(config["model_type"])


def _complete(folder: Path) -> None:
    """Write zeros for weights that `AutoModel` expects and that the vectors do not use: BERT's pooler.

    Without them the library draws random ones, and warns that the model should be trained.
    """
    from transformers import AutoModel

    with quietly(), torch.random.fork_rng(devices=[]), torch.no_grad():
        opened, report = AutoModel.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        missing = set(report["missing_keys"])
        if missing:
            for name, parameter in opened.named_parameters():
                if name in missing:
                    parameter.zero_()
            opened.save_pretrained(folder)


def _write_tokenizer(parts: EncoderParts, folder: Path) -> None:
    """Write the tokenizer, which puts around a text what the encoder reads, cuts where the encoder does, and pads."""
    from transformers import AutoTokenizer

    tokenizer = parts.tokenizer
    write_tokenizer(folder, tokenizer, parts.files)
    opened: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    changed: dict[str, Any] = {"model_max_length": parts.longest, "padding_side": "right", "truncation_side": "right"}
    if list(opened("a b")["input_ids"]) != [*parts.begin, *tokenizer.encode("a b"), *parts.end]:
        _put_around(folder / "tokenizer.json", tokenizer, parts)
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
    if opened.pad_token is None:  # padding is masked, so that any token will do
        changed["pad_token"] = tokenizer.end_of_document_token
    path = folder / TOKENIZER_CONFIG
    settings: Any = read_json(path) if path.exists() else {}
    write_json(path, {**settings, **changed})


def _put_around(path: Path, tokenizer: Tokenizer, parts: EncoderParts) -> None:
    """Write the post-processor that puts the ids of an encoder around each text."""
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    inner = tokenizers.Tokenizer.from_file(str(path))
    names = {number: str(tokenizer.inner.id_to_token(number)) for number in {*parts.begin, *parts.end}}
    begin, end = [names[number] for number in parts.begin], [names[number] for number in parts.end]
    inner.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=[*begin, "$A", *end],
        pair=[*begin, "$A", *end, "$B:1"],
        special_tokens=[(name, number) for number, name in names.items()],
    )
    inner.save(str(path))


_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- lavra
- sentence-transformers
- feature-extraction
---

# {name}

An encoder of texts: {modules}, vectors of {dimensions} dimensions.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries = model.encode_query(["a boat on a river"])
passages = model.encode_document(["Ships and boats sail here."])
print(model.similarity(queries, passages))
```

`lavra embed {name} TEXTS --out vectors.npy` makes the same vectors.
{prompts}
## Certificate

```text
{certificate}
```
"""


def _card(name: str, certificate: VectorCertificate, facts: dict[str, Any]) -> str:
    prompts = "".join(f"- {kind}: {text!r}\n" for kind, text in facts.get("prompts", {}).items())
    return _CARD.format(
        name=name,
        modules=certificate.modules,
        dimensions=certificate.dimensions,
        prompts=f"\nWhat is put before the texts of each kind:\n\n{prompts}" if prompts else "",
        certificate=certificate,
    )
