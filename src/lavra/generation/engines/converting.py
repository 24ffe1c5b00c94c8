"""Conversion of models for CTranslate2: done once, checked against the model, and kept in the user's cache."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lavra.core.disk.building import building_folder
from lavra.core.disk.locks import exclusive
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError, LavraError
from lavra.core.seeds import numpy_stream
from lavra.models.families.exporting import SpecialIds, export_decoder
from lavra.models.families.registry import family_for
from lavra.models.hf.kinds import quietly
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import eval_mode

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer

_TOLERANCE = 2e-3
"""Largest difference of a log-probability, in nats, between a model and its conversion in float32."""

_PROBE_TOKENS = 24
"""Number of tokens whose log-probabilities are compared, and of the tokens that are read before them."""


@dataclass(frozen=True)
class Convertible:
    """A model that may be converted for CTranslate2.

    Attributes:
        model: Decoder of our own, or a model of `transformers`, in float32.
        tokenizer: Tokenizer of the model.
        family: Hugging Face `model_type` under which to export a decoder of our own; None chooses one that fits its
            shape.
    """

    model: Any
    tokenizer: Tokenizer
    family: str | None = None

    @property
    def is_sequence_to_sequence(self) -> bool:
        """Whether an encoder reads the prompts and a decoder writes the texts."""
        return bool(getattr(self.model, "decoder_start_ids", ()))


def why_not_convertible(source: Convertible) -> str | None:
    """Return why CTranslate2 cannot run a model, as a clause, or None if nothing is known to prevent it.

    Args:
        source: Model to convert.
    """
    try:
        with quietly():
            from ctranslate2.converters.transformers import _MODEL_LOADERS
    except ImportError:
        return "the package ctranslate2 is not installed (pip install ctranslate2)"
    if not isinstance(source.model, Decoder):
        configuration = type(source.model.inner.config).__name__
        known = configuration in _MODEL_LOADERS and source.model.kind != "encoder"
        return None if known else f"CTranslate2 has no {configuration.removesuffix('Config')} that writes text"
    try:
        family, _ = family_for(source.model.spec, source.family)
    except InputError as error:
        return error.message
    configuration = _configuration_class(family.name)
    return None if configuration in _MODEL_LOADERS else f"CTranslate2 has no {family.title} models"


def _configuration_class(model_type: str) -> str:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return CONFIG_MAPPING_NAMES.get(model_type, "")


def conversions() -> Path:
    """Return the folder in the user's cache where conversions are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "lavra" / "ctranslate2"


def fingerprint(source: Convertible) -> str:
    """Return a hash of all that a conversion depends on: weights, shape, vocabulary, and version of the converter.

    Args:
        source: Model to convert.
    """
    import ctranslate2

    shape = repr(source.model.spec) if isinstance(source.model, Decoder) else source.model.inner.config.to_json_string()
    begins = (getattr(source.model, "decoder_start_ids", ()), source.family)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((ctranslate2.__version__, shape, source.tokenizer.fingerprint, begins)).encode())
    for name, tensor in source.model.state_dict().items():
        digest.update(repr((name, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def is_converted(source: Convertible) -> bool:
    """Return whether the cache holds a conversion of the model.

    Args:
        source: Model to convert.
    """
    return conversions().exists() and any(conversions().glob(f"{fingerprint(source)}-*"))


def conversion_of(source: Convertible, quantization: str = "float32") -> Path:
    """Return the folder of a model's conversion, which is made and checked where the cache does not hold it.

    Args:
        source: Model to convert.
        quantization: Type of the weights on disk, such as "float32" or "int8".

    Raises:
        InputError: If CTranslate2 cannot run the model.
        LavraError: If the conversion does not compute the same as the model; nothing is kept then.
    """
    folder = conversions() / f"{fingerprint(source)}-{quantization}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    waits = exclusive(folder.with_name(f".{folder.name}.converting.lock"), "", remove=True, wait=math.inf)
    with nullcontext() if folder.exists() else waits:
        if not folder.exists():  # another process may have made it while this one waited
            with building_folder(folder, kind="conversion") as building:
                convert(source, building, quantization)
    return folder


def convert(
    source: Convertible, folder: Path, quantization: str | None = None, remedy: str = "use --engine torch"
) -> None:
    """Write a model for CTranslate2 into a folder, and compare log-probabilities in float32.

    Args:
        source: Model to convert.
        folder: Existing folder to write into.
        quantization: Type of the weights on disk; None means float32. The type of the computation is chosen when the
            conversion is loaded.
        remedy: What an error tells the user to do.

    Raises:
        InputError: If CTranslate2 cannot run the model.
        LavraError: If the conversion does not compute the same as the model.
    """
    reason = why_not_convertible(source)
    if reason is not None:
        raise InputError(f"the model cannot be converted: {reason}", remedy)
    inner = _transformers_model(source)
    names = token_names(source.tokenizer, inner.get_input_embeddings().weight.shape[0])
    try:
        _write(_specification(inner, names, source), folder, None)
        _prove(source, folder, names, remedy)
        if quantization not in (None, "float32"):
            again = _transformers_model(source)  # some converters take a model apart while they read it
            _write(_specification(again, names, source), folder, quantization)
    except (AttributeError, NotImplementedError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"ctranslate2 cannot convert this {type(inner).__name__}: {error}", remedy) from error


def _write(specification: Any, folder: Path, quantization: str | None) -> None:
    specification.validate()
    specification.optimize(quantization=quantization)
    specification.save(str(folder))


def token_names(tokenizer: Tokenizer, size: int) -> list[str]:
    """Return a distinct name for each id: the token of the tokenizer, or `<unused …>` where it has none.

    Args:
        tokenizer: Tokenizer of the model.
        size: Number of ids, with those of padding.
    """
    inner = getattr(tokenizer, "inner", None)
    found = [inner.id_to_token(number) if inner is not None else None for number in range(size)]
    return [f"<unused {number}>" if name is None else name for number, name in enumerate(found)]


def _transformers_model(source: Convertible) -> Any:
    if not isinstance(source.model, Decoder):
        return copy.deepcopy(source.model.inner)  # the library rounds weights in place, which must not be the model's
    from transformers import AutoModelForCausalLM

    ids: SpecialIds = {
        "bos_token_id": source.tokenizer.document_bos,
        "eos_token_id": source.tokenizer.end_of_document,
    }
    with scratch_folder() as folder, quietly():
        export_decoder(Path(folder), source.model, ids, source.family)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class _Names:
    """Stand-in for a tokenizer of `transformers`, with the attributes that the converters read."""

    def __init__(self, names: Sequence[str], end: int, start: int) -> None:
        self._names = names
        self.eos_token = self.unk_token = names[end]
        self.bos_token = self.pad_token = names[start]

    def convert_ids_to_tokens(self, number: int | None) -> str | None:
        return None if number is None else self._names[number]


def _specification(inner: Any, names: list[str], source: Convertible) -> Any:
    """Return the model as a specification of CTranslate2, made by its own converter for the family."""
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    decoder_start_ids: Sequence[int] = getattr(source.model, "decoder_start_ids", ())
    end = source.tokenizer.end_of_document
    stand_in = _Names(names, end, decoder_start_ids[0] if decoder_start_ids else source.tokenizer.document_bos)
    loader = _MODEL_LOADERS[type(inner.config).__name__]
    own = inner.config
    inner.config = _older(own)
    if not hasattr(inner, "embed_out"):  # GPT-NeoX's head, under the name that it had; no module, so nothing is saved
        object.__setattr__(inner, "embed_out", inner.get_output_embeddings())
    try:
        with torch.no_grad():
            specification = loader.get_model_spec(inner)
            loader.set_config(specification.config, inner, stand_in)
    finally:
        inner.config = own
    if decoder_start_ids:
        specification.config.decoder_start_token = names[decoder_start_ids[0]]
        specification.register_source_vocabulary(names)
        specification.register_target_vocabulary(names)
    else:
        specification.register_vocabulary(names)
    return specification


def _older(config: Any) -> Any:
    """Return a copy of a configuration with the attributes that the converters expect of earlier transformers."""
    older = copy.deepcopy(config)
    if config.model_type in ("bart", "mbart"):
        older.normalize_before = config.model_type == "mbart"
        older.normalize_embedding = True
    if config.model_type == "gpt_neox":
        rope = config.rope_parameters or {}
        older.rotary_pct = rope.get("partial_rotary_factor", 1.0)
        older.rotary_emb_base = rope.get("rope_theta", 10000)
    if hasattr(config, "scale_decoder_outputs"):  # T5: the attribute below is always true there now
        object.__setattr__(older, "tie_word_embeddings", config.scale_decoder_outputs)
    return older


def _prove(source: Convertible, folder: Path, names: list[str], remedy: str) -> None:
    """Raise an error unless the model and its conversion give random tokens the same log-probabilities in float32."""
    words = min(source.tokenizer.vocabulary_size, len(names))
    count = min(_PROBE_TOKENS, source.model.context // 2 - 1)
    drawn = numpy_stream(0, "tokens of a conversion").integers(words, size=2 * count).tolist()
    ours, theirs = log_probabilities(source, folder, drawn[:count], drawn[count:])
    difference = float((ours - theirs).abs().max())
    if not difference <= _TOLERANCE:
        raise LavraError(
            f"the conversion for CTranslate2 is another model: log-probabilities differ by {difference:.2g}; it does "
            "not compute this variant of the family",
            remedy,
        )


def log_probabilities(
    source: Convertible, folder: Path, before: list[int], after: list[int], compute_type: str = "float32"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of tokens by a model and by its conversion, (after,) nats each.

    Args:
        source: Model that was converted.
        folder: Folder of the conversion.
        before: At least one id that is read first: the source of an encoder-decoder, or the context of a decoder.
        after: Ids of the tokens to score.
        compute_type: Type in which CTranslate2 computes.
    """
    import ctranslate2

    size = source.model.vocabulary
    names = token_names(source.tokenizer, size)
    how: dict[str, Any] = {"compute_type": compute_type, "intra_threads": 1}
    if source.is_sequence_to_sequence:
        written = [*source.model.decoder_start_ids[1:], *after]
        begun = torch.tensor([[source.model.decoder_start_ids[0], *written[:-1]]])
        cache = source.model.new_cache(1, len(written), [before])
        translator = ctranslate2.Translator(str(folder), **how)
        scored = translator.score_batch(
            [[names[one] for one in before]], [[names[one] for one in written]], max_input_length=0
        )
        found = scored[0].log_probs[: len(written)]  # without that of the end token, which the library adds
    else:
        written = [*before, *after]
        begun = torch.tensor([written[:-1]])
        cache = source.model.new_cache(1, len(written))
        generator = ctranslate2.Generator(str(folder), **how)
        found = generator.score_batch([[names[one] for one in written]], max_input_length=0)[0].log_probs
    with torch.no_grad(), eval_mode(source.model):
        logits = source.model.head(source.model.step(begun, cache))
    log = logits[0, -len(after) :, :size].float().log_softmax(-1)
    ours = log.gather(1, torch.tensor(after)[:, None])[:, 0]
    return ours, torch.tensor(found[-len(after) :])
