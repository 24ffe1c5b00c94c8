"""The choice of engine and precision for generation: as asked for, or by a rule, and the choice is said."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError, LavraError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.generation.engines.converting import Convertible, is_converted, why_not_convertible
from lavra.generation.engines.ctranslate import CTranslate2Engine, compute_type, why_not
from lavra.generation.engines.engine import Engine, TorchEngine
from lavra.generation.prompts import encode_prompt, writes_from_source
from lavra.models.native.decoder import Decoder
from lavra.models.native.low_precision import FEW_ROWS, can_pack, pack_weights, round_weights
from lavra.training.precision import TYPES, choose_precision
from lavra.workflows.models.open import OpenModel, open_language_model, refuse_labels

MANY_TEXTS = 64
"""Number of texts from which on `auto` converts a model for CTranslate2, because the conversion takes some seconds."""


def open_engine(
    model: str | OpenModel,
    prompts: Sequence[str],
    options: GenerateOptions,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Engine:
    """Open a model with the engine that will continue prompts.

    The engine "auto" is ctranslate2 on a CPU where it is installed and supports the model, the options and the
    precision, for `MANY_TEXTS` texts or more, or where the model was converted before. It is torch otherwise, and for
    beam search, which CTranslate2 ends by another rule.

    The precision "auto" is fp32 for greedy, beam and contrastive search, so that the texts are the same as those of
    other programs. For sampling it is int8 with ctranslate2. With torch it is int8 for very few texts, whose time is
    spent on reading weights from memory, else the type that the processor multiplies fastest (bf16 where it has it;
    fp32 for an encoder-decoder on a CPU).

    Args:
        model: The location of a model, or a model that is open in fp32.
        prompts: The prompts that will be continued.
        options: How to generate.
        engine: Library that computes: "auto", "torch" or "ctranslate2".
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: auto, fp32, bf16, fp16 or int8.

    Returns:
        The engine with the model.

    Raises:
        InputError: If there is no such model, engine or precision, or the engine asked for cannot do what is asked.
    """
    if engine not in ("auto", "torch", "ctranslate2"):
        raise InputError(f"{engine!r} is not an engine", "choose one of auto, torch, ctranslate2")
    if precision not in ("auto", "int8", *TYPES):
        raise InputError(f"{precision!r} is not a precision", f"choose one of auto, {', '.join(TYPES)}, int8")
    opened = open_language_model(model, device, "fp32") if isinstance(model, str) else model
    refuse_labels(opened, opened.place)
    texts = len(prompts) * options.samples
    if engine == "torch":
        return _torch(opened, options, precision, texts)
    source = Convertible(opened.model, opened.tokenizer, opened.family)
    where = next(opened.model.parameters()).device.type
    asked = ("fp32" if _determined(options) else "int8") if precision == "auto" else precision
    reason = _not_by_itself(source, texts, options, where) if engine == "auto" else None
    reason = reason or _against(source, prompts, options, where, asked)
    if reason is not None:
        if engine == "ctranslate2":
            raise InputError(f"ctranslate2 cannot write this: {reason}", "use --engine torch, or auto")
        return _torch(opened, options, precision, texts)
    try:
        made = CTranslate2Engine(source, asked, where, torch.get_num_threads())
    except LavraError as error:
        if engine == "ctranslate2":
            raise
        log(f"ctranslate2 is not used: {error.message}")
        return _torch(opened, options, precision, texts)
    log(f"engine: {made.description}" + ("" if _determined(options) else _ABOUT_SEEDS))
    return made


_ABOUT_SEEDS = (
    " (the same seed gives the same texts for the same prompts; with --engine torch for each prompt by itself)"
)


def _determined(options: GenerateOptions) -> bool:
    return options.greedy or options.beams > 1 or options.contrastive is not None


def _against(
    source: Convertible, prompts: Sequence[str], options: GenerateOptions, device: str, precision: str
) -> str | None:
    """Return the reason why ctranslate2 cannot do what is asked; None if it can."""
    reason = why_not_convertible(source)
    if reason is not None:
        return reason
    if compute_type(precision, device) is None:
        return f"it has no {precision} on this {device}"
    encoded = [
        encode_prompt(source.model, source.tokenizer, prompt, options.long_prompt, options.bos) for prompt in prompts
    ]
    return why_not(options, encoded, source.model.context)


def _not_by_itself(source: Convertible, texts: int, options: GenerateOptions, device: str) -> str | None:
    """Return the reason why `auto` does not take ctranslate2 where it could; None if it takes it."""
    if not _installed():
        return "it is not installed"
    if device != "cpu":
        return f"on a {device} torch is as fast"
    if options.beams > 1:
        return "beam search ends by another rule there"
    if texts < MANY_TEXTS and not is_converted(source):
        return f"for {counted(texts, 'text')} the model is not worth converting"
    return None


def _installed() -> bool:
    try:
        return find_spec("ctranslate2") is not None
    except ValueError:  # a module that was put in its place, or taken away
        return False


def _torch(opened: OpenModel, options: GenerateOptions, precision: str, texts: int) -> TorchEngine:
    where = next(opened.model.parameters()).device
    if precision == "auto" and not _determined(options) and texts <= FEW_ROWS and isinstance(opened.model, Decoder):
        precision = "int8" if where.type == "cpu" and choose_precision("auto", where) == "bf16" else "auto"
    if precision == "int8":
        if not isinstance(opened.model, Decoder) or where.type != "cpu":
            raise InputError(
                "int8 weights with torch are for lavra's own decoder on a CPU", "use --precision bf16, or ctranslate2"
            )
        round_weights(opened.model)
    else:
        if precision == "auto" and (_determined(options) or (writes_from_source(opened.model) and where.type == "cpu")):
            precision = "fp32"  # the attention of one query to a whole source takes twice as long in bf16 on a CPU
        precision = choose_precision(precision, where)
        for parameter in opened.model.parameters():  # and no buffer: angles of positions need all their digits
            parameter.data = parameter.data.to(TYPES[precision])
        if isinstance(opened.model, Decoder) and can_pack(where, TYPES[precision]):
            pack_weights(opened.model)
    return TorchEngine(opened.model, opened.tokenizer, f"torch, {precision}")
