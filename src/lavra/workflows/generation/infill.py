"""Filling in what is missing between two texts, with a model that learned to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation import infilling
from lavra.generation.generate import Generation
from lavra.training.devices import choose_device
from lavra.training.precision import choose_precision
from lavra.workflows.models.open import open_language_model


def infill(
    model: str,
    pairs: Sequence[tuple[str, str]],
    options: GenerateOptions | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
) -> list[Generation]:
    """Write the middles between pairs of texts.

    Args:
        model: The location of the model: a run, a checkpoint or a model folder. It must have learned to fill in
            middles (`--objective fim`, or a model with the tokens of Qwen, StarCoder or Code Llama) or hidden spans.
        pairs: Prefix and suffix of each middle.
        options: How to generate; the defaults of `GenerateOptions` if None.
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: auto (fp32 for greedy and beam search, else what the device multiplies fastest),
            fp32, bf16 or fp16.

    Returns:
        `samples` generations for each pair, in their order; their `text` is the middle alone.

    Raises:
        InputError: If there is no such model or precision, it cannot fill in, or a pair does not fit its context.

    Examples:
        >>> import lavra
        >>> lavra.infill("runs/filler", [("Era uma vez", "e viveram felizes.")])[0].text   # doctest: +SKIP
    """
    options = (options or GenerateOptions()).with_files_read()
    determined = options.greedy or options.beams > 1 or options.contrastive is not None
    if precision == "int8":
        raise InputError("middles are not written with int8", "use --precision bf16, fp32 or auto")
    if precision == "auto":
        precision = "fp32" if determined else choose_precision("auto", choose_device(device))
    opened = open_language_model(model, device, precision)
    with torch.no_grad():
        return infilling.infill(opened.model, opened.tokenizer, pairs, options)
