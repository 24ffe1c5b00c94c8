"""From a compute budget to the shape of a model, the batch size, and the value of repeating text for several epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import log2

from lavra.core.errors import InputError
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.flops import matrix_parameters, training_flops_per_token

_ASSUMED_EFFICIENCY = {"cpu": 0.45, "cuda": 0.35, "mps": 0.3}
"""Model FLOPs utilization (MFU): the share of the matrix peak that a training step is assumed to reach on each kind of
device, until real steps are timed."""

_MOST_FLOPS_OF_A_THREAD = 110e9
"""Largest FLOP/s of a training step per CPU thread, however fast the matrix units are (a TFLOP/s with AMX): the
operations between the matrix products take the time."""

TOKENS_PER_PARAMETER = 1.5
"""Tokens per matrix parameter (including the head) of the best small model for a short budget; see the lab notebook."""

MOST_EPOCHS = 4.0
"""Number of epochs up to which repeated text is worth nearly as much as new text (arXiv 2305.16264)."""

LEAST_TEXT_BYTES = 2000
"""Smallest number of bytes of text that a model is planned for or trained on from scratch: less text teaches no
language."""

PARAMETERS_PER_BYTE = 5.0
"""Largest number of matrix parameters per byte of text, however large the compute budget is: a larger model memorises a
small text. The limit matters where the text is repeated many times; the runs of the lab notebook stay below it."""

_TRAINING_BYTES = 24
"""Bytes of memory per parameter in training (weight, gradient, two moments, a copy for the checkpoint), and the share
of the memory that they may take; activations need the rest."""
_MEMORY_SHARE = 0.7

_RUNGS = (
    # depth, width, heads, vocabulary, context
    (2, 64, 1, 4096, 128),
    (3, 96, 2, 4096, 256),
    (4, 128, 2, 4096, 256),
    (4, 192, 3, 8192, 256),
    (5, 256, 4, 8192, 256),
    (6, 320, 5, 8192, 256),
    (6, 384, 6, 8192, 256),
    (8, 512, 8, 16384, 512),
    (10, 640, 10, 16384, 512),
    (12, 768, 12, 32768, 1024),
    (16, 1024, 16, 32768, 1024),
    (24, 1536, 24, 32768, 2048),
    (32, 2048, 32, 32768, 2048),
)


def assumed_efficiency(device: str, peak: float, threads: int) -> float:
    """Return the share of the matrix peak that a training step is assumed to reach, before real steps are timed.

    Args:
        device: Kind of device: `cpu`, `cuda` or `mps`.
        peak: Peak speed of the device in matrix products, in FLOP/s.
        threads: Number of processor threads; only used for `cpu`.

    Examples:
        >>> assumed_efficiency("cuda", 1e15, 8)
        0.35
    """
    share = _ASSUMED_EFFICIENCY.get(device, 0.35)
    return min(share, threads * _MOST_FLOPS_OF_A_THREAD / peak) if device == "cpu" else share


@dataclass(frozen=True)
class Draft:
    """Shape of a model for a compute budget.

    Attributes:
        spec: Specification of the model.
        tokens: Number of tokens that the budget allows this model to train on.
    """

    spec: DecoderSpec
    tokens: float


def demand_text(corpus_bytes: float) -> None:
    """Check that there is enough text to train a language model from scratch.

    Args:
        corpus_bytes: Size of the training text in bytes.

    Raises:
        InputError: if the text is smaller than `LEAST_TEXT_BYTES`.
    """
    if corpus_bytes < LEAST_TEXT_BYTES:
        raise InputError(
            f"{corpus_bytes:.0f} bytes of text are too few to train a language model from scratch",
            "give at least a few hundred kilobytes; several megabytes are better",
        )


def draft_shape(flops: float, corpus_bytes: float, memory: float = math.inf) -> Draft:
    """Return the largest shape that trains on enough tokens, suits the amount of text, and fits into memory.

    Enough is `TOKENS_PER_PARAMETER` tokens per parameter. If a shape would repeat the text for more than `MOST_EPOCHS`
    epochs, a larger one is chosen even if it trains on fewer tokens per parameter, because more repetition teaches
    little. No shape has more than `PARAMETERS_PER_BYTE` parameters per byte of text, and the smallest shape is allowed
    for any text.

    Args:
        flops: Compute budget in floating-point operations: seconds x FLOP/s that training reaches.
        corpus_bytes: Size of the training text in bytes.
        memory: Memory that training may take, in bytes; infinite for no limit.

    Examples:
        >>> draft = draft_shape(flops=1e15, corpus_bytes=20e6)
        >>> draft.spec.depth, draft.spec.width
        (6, 320)
        >>> draft.tokens > 1e6
        True
    """
    most = min(PARAMETERS_PER_BYTE * corpus_bytes, _MEMORY_SHARE * memory / _TRAINING_BYTES)
    best: Draft | None = None
    # From the smallest shape up; the loop ends at the first that is too large for the text, the memory or the budget.
    for depth, width, heads, vocabulary, context in _RUNGS:
        spec = DecoderSpec(
            vocabulary=vocabulary_for(vocabulary, corpus_bytes), context=context, depth=depth, width=width, heads=heads
        )
        tokens = flops / training_flops_per_token(spec)
        repeats = best is not None and best.tokens * BYTES_PER_TOKEN > MOST_EPOCHS * max(corpus_bytes, 1.0)
        if best is not None and matrix_parameters(spec) > most:
            break
        if best is None or repeats or tokens >= TOKENS_PER_PARAMETER * matrix_parameters(spec):
            best = Draft(spec, tokens)
        else:
            break
    assert best is not None
    return best


BYTES_PER_TOKEN = 3.5
"""Assumed number of bytes of text per token, before the tokenizer is known."""


def vocabulary_for(wanted: int, corpus_bytes: float) -> int:
    """Return a vocabulary size with which even the rarest tokens still occur some dozens of times in the text.

    Args:
        wanted: Largest vocabulary size.
        corpus_bytes: Size of the training text in bytes.

    Examples:
        >>> vocabulary_for(8192, 1e6), vocabulary_for(8192, 1e9)
        (2048, 8192)
    """
    limit = 2048 * (max(corpus_bytes, 1.0) / 1e6) ** 0.6
    return int(min(wanted, max(512, round(limit / 64) * 64)))


def vocabulary_note(wanted: int, text_bytes: float) -> str | None:
    """Return a warning if a vocabulary is too large for a text, or None.

    Args:
        wanted: Vocabulary size.
        text_bytes: Size of the training text in bytes.
    """
    suits = vocabulary_for(wanted, text_bytes)
    if suits >= wanted:
        return None
    return (
        f"{text_bytes / 1e6:.2f} MB of text is little for a vocabulary of {wanted} tokens: the "
        f"rarest of them occur only a few times. {suits} tokens suit this text (--text.vocabulary {suits})"
    )


def batch_tokens_for(tokens: float, context: int, busy: float = 0.0, *, adapting: bool = False) -> int:
    """Return the batch size in tokens: a power of two from 2,048 to 524,288, or one sequence if that is longer.

    Small budgets need many steps more than they need smooth gradients. The largest efficient batch (the critical batch
    size, arXiv 1812.06162) grows during training, about with the square root of the number of tokens. A device that
    computes faster than its kernels can be launched needs larger batches, as long as the run keeps enough steps.

    Args:
        tokens: Number of tokens of the whole run.
        context: Length of a sequence in tokens.
        busy: Tokens of a step that keep the device busy, see `busy_tokens`; 0 for no such requirement.
        adapting: Whether a pretrained model is fine-tuned, for which fewer steps are enough.

    Examples:
        >>> batch_tokens_for(1.2e6, context=256), batch_tokens_for(1e9, context=256)
        (2048, 65536)
    """
    wanted = 2048 * (max(tokens, 1.0) / 1.2e6) ** 0.5
    affordable = tokens / (ADAPTING_STEPS if adapting else MIN_STEPS)
    wanted = max(wanted, min(busy, affordable))
    power = 2 ** max(11, min(19, round(log2(wanted))))
    return max(context, power)


MIN_STEPS = 400
"""Smallest number of steps of a run from scratch to which larger batches, made to keep the device busy, may lead."""

ADAPTING_STEPS = 150
"""The same smallest number of steps for fine-tuning a pretrained model."""

_STEP_SECONDS = {"cuda": 0.06, "mps": 0.06}
"""Seconds that launching the kernels of one training step takes, one by one, on each kind of GPU."""

ACTIVATION_BYTES = 100.0
"""Largest number of bytes per token, block and unit of width that the activations of a training step take, without
attention scores: 50 to 95 in dry runs of four decoder shapes (those of GPT-2, SmolLM2 and lavra, and a wide one)."""

_STATE_BYTES = 18.0  # per parameter: bf16 weights and gradients, fp32 master weights, gradients and two moments
_MEMORY_SHARE = 0.8  # share of the memory of a GPU that plans may use


def busy_tokens(device: str, flops_per_second: float, flops_per_token: float) -> float:
    """Return the number of tokens that a device computes in the time it takes to launch the kernels of one step.

    With fewer tokens per step, the device would wait for the processor.

    Args:
        device: Kind of device: `cpu`, `cuda` or `mps`.
        flops_per_second: Expected speed of a training step in FLOP/s.
        flops_per_token: Floating-point operations per token of a training step.
    """
    return _STEP_SECONDS.get(device, 0.0) * flops_per_second / flops_per_token


def tokens_that_fit(memory: float, parameters: float, depth: int, width: int) -> int:
    """Return the number of tokens of a micro-batch that fit on a GPU beside the model and its optimiser; 1 or more.

    Args:
        memory: Memory of the GPU in bytes.
        parameters: Number of parameters of the model.
        depth: Number of blocks.
        width: Width of the residual stream.
    """
    left = _MEMORY_SHARE * memory - _STATE_BYTES * parameters
    return max(1, int(left / (ACTIVATION_BYTES * depth * width)))


HALF_LIFE = 15.39
"""R*_D of arXiv 2305.16264 (§4, table of fitted constants): number of repetitions after which a share of 1 - 1/e of all
that repetition can teach is reached."""

NEARLY_NEW = 4.0
"""Number of epochs up to which repeated text is worth almost as much as new text (arXiv 2305.16264, §1)."""


def worth(epochs: float) -> float:
    """Return the number of epochs of new text that `epochs` of the same text are worth.

    D'/U = 1 + R* (1 - exp(-R / R*)) with R = epochs - 1 repetitions (equation 5 of arXiv 2305.16264, Muennighoff et al.
    2023). Up to one epoch, all text is new.

    Examples:
        >>> worth(1.0), round(worth(4.0), 2)
        (1.0, 3.73)
    """
    repetitions = epochs - 1.0
    if repetitions <= 0.0:
        return epochs
    return 1.0 + HALF_LIFE * (1.0 - math.exp(-repetitions / HALF_LIFE))


def effective_tokens(tokens: float, unique: float) -> float:
    """Return the number of tokens of new text that are worth `tokens` tokens from a text of `unique` tokens.

    Examples:
        >>> effective_tokens(50.0, 100.0), round(effective_tokens(400.0, 100.0))
        (50.0, 373)
    """
    return tokens if tokens <= unique else unique * worth(tokens / unique)


def repetition_note(epochs: float) -> str | None:
    """Return what repetition costs if so many epochs teach clearly less than new text would, or None.

    Examples:
        >>> repetition_note(12.0)  # doctest: +ELLIPSIS
        'the text is read 12.0 times; beyond 4 epochs, ... these are worth 8.9 epochs of new text, 74% of the compute'
    """
    if epochs <= NEARLY_NEW:
        return None
    share = worth(epochs) / epochs
    return (
        f"the text is read {epochs:.1f} times; beyond {NEARLY_NEW:.0f} epochs, repetition teaches less and less: these "
        f"are worth {worth(epochs):.1f} epochs of new text, {share:.0%} of the compute"
    )
