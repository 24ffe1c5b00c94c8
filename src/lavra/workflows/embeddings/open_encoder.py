"""Opening what makes vectors of texts: a run, any model, a folder of sentence-transformers, or static vectors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lavra.core.disk.run_folder import is_run
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.importing import read_config
from lavra.models.heads import EmbeddingHead, head_of, width_of
from lavra.models.hf.folders import open_hf_model
from lavra.models.hf.fused import pack_body
from lavra.models.hf.kinds import body_of, body_parameters, choose_kind
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.native.low_precision import can_pack
from lavra.training.devices import choose_device
from lavra.training.precision import TYPES, choose_precision
from lavra.vectors.encoder import NetworkEncoder
from lavra.vectors.fingerprints import fingerprint
from lavra.vectors.protocols import TextEncoder
from lavra.vectors.reading import KINDS, Prompts, TextReading
from lavra.vectors.sentence_folder import (
    SentenceFolder,
    SentenceHead,
    is_sentence_folder,
    read_sentence_folder,
    sentence_head,
)
from lavra.vectors.static import read_static
from lavra.workflows.models.open import hugging_face_folder, open_model
from lavra.workflows.models.task_head import HEAD_FILE

_E5 = re.compile(r"(?:^|[-_])e5(?:[-_]|$)")
"""Matches the name of a model of the family E5 (Wang et al. 2022, arXiv 2212.03533)."""

_E5_PROMPTS: Prompts = {"query": "query: ", "passage": "passage: ", "text": "query: "}
"""What E5 was trained with; its authors put "query: " before texts that are compared with their like."""

_NOT_OF_VECTORS = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "id2label", "label2id"}
    | {"use_cache", "_attn_implementation", "attn_implementation", "num_labels", "problem_type"}
)
"""Keys of a configuration that do not change the features of a model."""


@dataclass
class EncoderParts:
    """What an encoder is made of.

    Attributes:
        model: The model, in float32.
        tokenizer: Its tokenizer.
        head: What makes the vectors of features.
        about: What `head` does, as plain values.
        size: Size of the vectors of `head`.
        normalise: Whether the vectors have length 1.
        begin: Ids before each text.
        end: Ids after each text.
        longest: Most tokens of a text.
        prompts: What is put before the texts of each kind.
        pool_prompt: Whether the tokens of the prompt are pooled.
        dimensions: Size of the vectors by the model's own settings; None for all of `size`.
        place: Location of the model, in words.
        files: Folder with the files of the tokenizer; None where there is none.
    """

    model: Decoder | HFModel
    tokenizer: Tokenizer
    head: nn.Module
    about: dict[str, Any]
    size: int
    normalise: bool
    begin: tuple[int, ...]
    end: tuple[int, ...]
    longest: int
    prompts: Prompts
    pool_prompt: bool = True
    dimensions: int | None = None
    place: str = ""
    files: Path | None = None

    @property
    def kind(self) -> str:
        """Kind of the model: "decoder" or "encoder"."""
        return self.model.kind

    def fingerprint(self, dimensions: int) -> str:
        """Return the name of the encoder with vectors of some size.

        Args:
            dimensions: Size of a vector.
        """
        model = self.model
        if isinstance(model, Decoder):
            only_head = ("output.", "head_transform.")  # a head that is the embedding is named as that
            used = [one for name, one in model.named_parameters() if not name.startswith(only_head)]
            config = model.spec.to_dict()
        else:
            used, config = body_parameters(model.inner), model.inner.config.to_diff_dict()
        ids = {id(parameter) for parameter in [*used, *self.head.parameters()]}
        named = [(name, one) for name, one in model.named_parameters() if id(one) in ids and name not in _unused(model)]
        seen = {id(one) for _, one in named}
        named += [(f"head.{name}", one) for name, one in self.head.named_parameters() if id(one) not in seen]
        about = {
            **self.about,
            "config": {key: value for key, value in config.items() if key not in _NOT_OF_VECTORS},
            "tokenizer": self.tokenizer.fingerprint,
            "around": [list(self.begin), list(self.end)],
            "longest": self.longest,
            "prompts": dict(self.prompts),
            "pool_prompt": self.pool_prompt,
            "normalise": self.normalise,
            "dimensions": dimensions,
        }
        return fingerprint(about, named)


def _unused(model: Decoder | HFModel) -> frozenset[str]:
    return model.unused if isinstance(model, HFModel) else frozenset()


def open_encoder(
    model: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    dimensions: int | None = None,
    prompts: Prompts | None = None,
) -> TextEncoder:
    """Open what makes vectors of texts.

    A model that was not made for vectors is given a pooling, which is said: the mean of the tokens' features for an
    encoder, the features of the last token for a decoder.

    Args:
        model: The location of the model: a run, a checkpoint, a model folder, a folder of sentence-transformers (also
            of static vectors), a Hugging Face folder or a hub name.
        device: Device that computes: auto, cpu, cuda, cuda:1 or mps. Static vectors are always computed on the CPU.
        precision: Type of the weights: fp32, bf16, fp16, or auto for the type that the device multiplies fastest. The
            fingerprint is the same for all: the vectors differ by rounding alone.
        dimensions: Number of the first numbers of a vector that are kept, for models trained so that these suffice
            (matryoshka); None keeps what the model says.
        prompts: What is put before the texts of each kind, in place of the model's own prompts; None keeps those.

    Raises:
        InputError: If there is no such model, it makes no vectors, or has fewer dimensions.
        CorruptFile: If a file of the model is damaged.
    """
    folder = _sentence_folder(model)
    described = None if folder is None else _with_known_prompts(read_sentence_folder(folder), folder.name)
    if described is not None and described.static is not None:
        given = described.prompts if prompts is None else prompts
        static = read_static(described.static, prompts=given, normalise=described.normalise)
        kept = _kept(dimensions or described.dimensions, static.dimensions, model)
        if kept == static.dimensions:
            return static
        return read_static(described.static, prompts=given, normalise=described.normalise, dimensions=kept)
    return encoder_of(open_parts(model, prompts=prompts), device=device, precision=precision, dimensions=dimensions)


def open_parts(model: str, *, prompts: Prompts | None = None) -> EncoderParts:
    """Open the parts of an encoder that is a network, in float32 on the CPU.

    Args:
        model: The location of the model, as for `open_encoder`.
        prompts: What is put before the texts of each kind; None keeps the model's own prompts.

    Raises:
        InputError: If there is no such model, or it makes no vectors.
    """
    folder = _sentence_folder(model)
    if folder is not None:
        parts = _of_sentence_folder(_with_known_prompts(read_sentence_folder(folder), folder.name))
    else:
        found = None if is_run(Path(model)) else hugging_face_folder(model)
        plain = found is not None and not (found / HEAD_FILE).is_file()
        kind = choose_kind(read_config(found), found) if plain and found is not None else ""
        if kind == "encoder-decoder":
            raise _no_vectors(model, "is an encoder-decoder")
        parts = _of_encoder(found) if found is not None and kind == "encoder" else _of_model(model)
    if prompts is not None:
        odd = sorted(set(prompts) - set(KINDS))
        if odd:
            raise InputError(f"there is no kind of text called {odd[0]!r}", f"kinds: {', '.join(KINDS)}")
        parts.prompts = {kind: text for kind, text in prompts.items() if text}
    parts.place = model
    return parts


def encoder_of(
    parts: EncoderParts, *, device: str = "auto", precision: str = "auto", dimensions: int | None = None
) -> NetworkEncoder:
    """Return the encoder that is made of parts, whose model is moved and cast for it.

    Args:
        parts: The parts.
        device: Device that computes.
        precision: Type of the weights.
        dimensions: Number of the first numbers of a vector that are kept; None keeps what the model says.

    Raises:
        InputError: If there are fewer dimensions.
    """
    where = choose_device(device)
    chosen = choose_precision(precision, where)
    kept = _kept(dimensions or parts.dimensions, parts.size, parts.place)
    name = parts.fingerprint(kept)
    model, head = parts.model.to(where).eval(), parts.head.to(where).eval()
    for parameter in model.parameters():  # buffers stay fp32: the angles of rotary positions need all digits
        parameter.data = parameter.data.to(TYPES[chosen])
    if can_pack(where, TYPES[chosen]):
        pack_body(model if isinstance(model, Decoder) else body_of(model.inner))
    reading = TextReading(parts.tokenizer, parts.longest, parts.begin, parts.end, parts.prompts)
    return NetworkEncoder(
        model,
        head,
        reading,
        dimensions=kept,
        fingerprint=name,
        normalise=parts.normalise,
        causal=parts.kind == "decoder",
        pool_prompt=parts.pool_prompt,
        precision=chosen,
    )


def _kept(asked: int | None, size: int, place: str) -> int:
    if asked is None:
        return size
    if not 1 <= asked <= size:
        raise InputError(f"{place} makes vectors of {size:,} dimensions, not of {asked:,}", f"choose 1 to {size}")
    return asked


def _no_vectors(place: str, why: str) -> InputError:
    return InputError(f"{place} {why}, and makes no vectors of texts", "give an encoder or a decoder")


def _sentence_folder(location: str) -> Path | None:
    """Return the folder of sentence-transformers at a location; None where there is none."""
    path = Path(location)
    if not path.exists():
        path = hugging_face_folder(location) or path
    return path if is_sentence_folder(path) else None


def _with_known_prompts(described: SentenceFolder, name: str) -> SentenceFolder:
    """Return what a folder says, with the prompts of its family where it names none."""
    from dataclasses import replace

    return described if described.prompts else replace(described, prompts=known_prompts(name))


def known_prompts(name: str) -> Prompts:
    """Return the prompts of a family of models that is known by the name of its folder; they are said.

    Args:
        name: Name of the folder.
    """
    if not _E5.search(name.lower()) or "instruct" in name.lower():
        return {}
    log(
        f"{name} is a model of the family E5 by its name: texts get the prompt {_E5_PROMPTS['text']!r}, queries "
        f"{_E5_PROMPTS['query']!r} and passages {_E5_PROMPTS['passage']!r}"
    )
    return _E5_PROMPTS


def _of_sentence_folder(described: SentenceFolder) -> EncoderParts:
    folder = described.model
    if folder is None:
        raise InputError(f"{described.folder} holds static vectors, and no network", "give a network")
    kind = choose_kind(read_config(folder), folder)
    if kind == "encoder-decoder":
        raise _no_vectors(str(folder), "is an encoder-decoder")
    model = open_hf_model(folder, kind, for_task_head=True)
    model.use_task_head()
    tokenizer = Tokenizer.load(folder)
    if described.lowercase:
        _lowercase(tokenizer)
    head, size = sentence_head(described, width_of(model))
    begin, end = tokenizer.around
    return EncoderParts(
        model=model,
        tokenizer=tokenizer,
        head=head,
        about={"pooling": described.pooling, "layers": len(described.layers)},
        size=size,
        normalise=described.normalise,
        begin=tuple(begin),
        end=tuple(end),
        longest=min(model.context, described.longest or model.context),
        prompts=described.prompts,
        pool_prompt=described.pool_prompt,
        dimensions=described.dimensions,
        files=folder,
    )


def _lowercase(tokenizer: Tokenizer) -> None:
    from tokenizers import normalizers

    inner: Any = tokenizer.inner
    before = [normalizers.Lowercase(), *([] if inner.normalizer is None else [inner.normalizer])]
    inner.normalizer = normalizers.Sequence(before)


def _of_encoder(folder: Path) -> EncoderParts:
    """Return the parts of an encoder of `transformers` that has no pooling of its own."""
    model = open_hf_model(folder, "encoder", for_task_head=True)
    return _pooled(model, Tokenizer.load(folder), str(folder), folder, known_prompts(folder.resolve().name))


def _of_model(location: str) -> EncoderParts:
    """Return the parts of a model that lavra opens: with the head that it was trained with, or without one."""
    opened = open_model(location, "cpu")
    head = getattr(opened.model, "task_head", None)
    if head is None:
        return _pooled(opened.model, opened.tokenizer, opened.place, opened.files)
    if not isinstance(head, EmbeddingHead) or opened.task is None:
        raise _no_vectors(location, f"was trained for {'labels' if opened.task is None else opened.task[0]}")
    facts = opened.task[1]
    told = facts.get("head", {}).get("context", opened.model.context)
    begin, end = opened.tokenizer.around_source
    return EncoderParts(
        model=opened.model,
        tokenizer=opened.tokenizer,
        head=head_of(opened.model),
        about={"pooling": head.options["pooling"], "layers": int(head.output is not None)},
        size=head.options["dimensions"] or head.width,
        normalise=head.options["normalise"],
        begin=tuple(begin),
        end=tuple(end),
        longest=min(opened.model.context, int(told)),
        prompts={kind: text for kind, text in facts.get("prompts", {}).items() if kind in KINDS and text},
        files=opened.files,
    )


def _pooled(
    model: Decoder | HFModel, tokenizer: Tokenizer, place: str, files: Path | None, prompts: Prompts | None = None
) -> EncoderParts:
    """Return the parts of a model that was not made for vectors."""
    kind = model.kind
    if kind == "encoder-decoder":
        raise _no_vectors(place, "is an encoder-decoder")
    model.use_task_head()
    pooling = "last" if kind == "decoder" else "mean"
    how = "those of its last token are taken" if kind == "decoder" else "their mean is taken"
    log(f"{place} does not say how the features of a text become its vector: {how}")
    width = width_of(model)
    begin, end = tokenizer.around
    return EncoderParts(
        model=model,
        tokenizer=tokenizer,
        head=SentenceHead(pooling, width),
        about={"pooling": pooling, "layers": 0},
        size=width,
        normalise=True,
        begin=tuple(begin),
        end=tuple(end),
        longest=model.context,
        prompts=prompts or {},
        files=files,
    )
