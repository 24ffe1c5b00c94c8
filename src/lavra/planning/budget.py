"""From a time to a shape: how large a model is worth training, and what reading text again is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import log2

from lavra.core.errors import InputError
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.flops import matrix_parameters, training_flops_per_token

_ASSUMED_EFFICIENCY = {"cpu": 0.45, "cuda": 0.35, "mps": 0.3}
"""Share of the measured matrix peak that a training step reaches, before a probe says better."""

_MOST_FLOPS_OF_A_THREAD = 110e9
"""FLOP/s of a training step that a thread of a CPU reaches at most, however fast its matrix units are (a TFLOP/s with
AMX): what comes between the products takes the time."""

TOKENS_PER_PARAMETER = 1.5
"""Tokens per matrix parameter (head included) of the best small model for a short budget; see the lab notebook."""

MOST_EPOCHS = 4.0
"""Repetitions that are still worth nearly as much as new text (arXiv 2305.16264)."""

LEAST_TEXT_BYTES = 2000
"""Less text than this teaches no language: neither planned nor trained from nothing."""

PARAMETERS_PER_BYTE = 5.0
"""Matrix parameters per byte of text at most, however much compute there is: a larger model learns a small text by
heart. It binds where the text is read many times; the runs of the lab notebook stay below it."""

_TRAINING_BYTES, _MEMORY_SHARE = 24, 0.7
"""Bytes of training for each parameter (weights, gradient, two moments, a copy for the checkpoint), and the share of
the memory that they may take; activations need the rest."""

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
    """Return the share of the matrix peak that a training step is expected to reach, before a probe.

    Args:
        device: `cpu`, `cuda` or `mps`.
        peak: FLOP/s of matrix products.
        threads: of the processor, for `cpu`.
    """
    share = _ASSUMED_EFFICIENCY.get(device, 0.35)
    return min(share, threads * _MOST_FLOPS_OF_A_THREAD / peak) if device == "cpu" else share


@dataclass(frozen=True)
class Draft:
    """A shape for an amount of compute.

    Attributes:
        spec: the model.
        tokens: that the compute pays for with this model.
    """

    spec: DecoderSpec
    tokens: float


def demand_text(corpus_bytes: float) -> None:
    """Return if there is text enough to learn a language from.

    Raises:
        InputError: if there is not.
    """
    if corpus_bytes < LEAST_TEXT_BYTES:
        raise InputError(
            f"{corpus_bytes:.0f} bytes of text are too little to learn a language from",
            "give at least some hundred kilobytes; a few megabytes are better",
        )


def draft_shape(flops: float, corpus_bytes: float, memory: float = math.inf) -> Draft:
    """Return the largest shape that still sees enough text, is not too large for the text, and fits into the memory.

    Enough is `TOKENS_PER_PARAMETER`. When a shape would read the corpus more than `MOST_EPOCHS` times, a larger one is
    taken even if it sees less text per parameter: more repetition teaches little. But no shape has more than
    `PARAMETERS_PER_BYTE`: the smaller the text, the smaller the model. The smallest shape is there for any text.

    Args:
        flops: that the budget buys, i.e. seconds x FLOP/s reached in training.
        corpus_bytes: of the training text.
        memory: bytes that training may take.
    """
    most = min(PARAMETERS_PER_BYTE * corpus_bytes, _MEMORY_SHARE * memory / _TRAINING_BYTES)
    best: Draft | None = None
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
"""Bytes of text in a token, before the tokenizer is known."""


def vocabulary_for(wanted: int, corpus_bytes: float) -> int:
    """Return a vocabulary of at most `wanted` whose rarest tokens the corpus still holds some dozens of times."""
    limit = 2048 * (max(corpus_bytes, 1.0) / 1e6) ** 0.6
    return int(min(wanted, max(512, round(limit / 64) * 64)))


def tokens_per_step_for(tokens: float, context: int, busy: float = 0.0, *, adapting: bool = False) -> int:
    """Return the batch in tokens: a power of two that gives a run some hundreds of steps, from 2048 to 524288.

    Small budgets want many steps more than smooth gradients; the batch that wastes nothing grows with training
    (critical batch size, arXiv 1812.06162), about with the square root of its length. A device that is faster than its
    steps can be given to it wants more tokens, as long as the run keeps enough steps.

    Args:
        tokens: of the run.
        context: tokens of a row.
        busy: tokens of a step that keep the device busy, see `busy_tokens`.
        adapting: whether the model knows something already; then fewer steps are enough.
    """
    wanted = 2048 * (max(tokens, 1.0) / 1.2e6) ** 0.5
    affordable = tokens / (ADAPTING_STEPS if adapting else MIN_STEPS)
    wanted = max(wanted, min(busy, affordable))
    power = 2 ** max(11, min(19, round(log2(wanted))))
    return max(context, power)


MIN_STEPS = 400  # steps that a run from nothing keeps before its steps are made larger for the device's sake
ADAPTING_STEPS = 150  # the same for a model that knows something already
_STEP_SECONDS = {"cuda": 0.06, "mps": 0.06}  # of giving a step's kernels to the device one by one

ACTIVATION_BYTES = 100.0
"""Bytes per token, block and unit of width that a training step holds at most without attention's scores: 50 to 95 in
rehearsals of four shapes of our decoder (GPT-2's, SmolLM2's, lavra's, a wide one)."""

_STATE_BYTES = 18.0  # per parameter: bf16 weights and gradients, fp32 masters, gradients and two momenta
_MEMORY_SHARE = 0.8  # of a GPU's memory that is planned for


def busy_tokens(device: str, flops_per_second: float, flops_per_token: float) -> float:
    """Return how many tokens of a step a device computes while the step's kernels are given to it.

    Args:
        device: `cpu`, `cuda` or `mps`.
        flops_per_second: that are expected of a training step.
        flops_per_token: of the model.
    """
    return _STEP_SECONDS.get(device, 0.0) * flops_per_second / flops_per_token


def tokens_that_fit(memory: float, parameters: float, depth: int, width: int) -> int:
    """Return how many tokens of a micro-batch fit a GPU beside the model and its optimiser, at least one.

    Args:
        memory: of the GPU, in bytes.
        parameters: of the model.
        depth: blocks.
        width: of the residual stream.
    """
    left = _MEMORY_SHARE * memory - _STATE_BYTES * parameters
    return max(1, int(left / (ACTIVATION_BYTES * depth * width)))


HALF_LIFE = 15.39
"""R*_D of arXiv 2305.16264 (§4, table of fitted constants): repetitions after which 1 - 1/e of all that repeating can
give is had."""

NEARLY_NEW = 4.0
"""Up to this many epochs, repeated text is worth almost as much as new text (arXiv 2305.16264, §1)."""


def worth(epochs: float) -> float:
    """Return how many epochs of new text are worth `epochs` of the same: D'/U = 1 + R* (1 - exp(-R / R*)).

    R = epochs - 1 repetitions; equation 5 of arXiv 2305.16264. Up to one epoch all is new.
    """
    repetitions = epochs - 1.0
    if repetitions <= 0.0:
        return epochs
    return 1.0 + HALF_LIFE * (1.0 - math.exp(-repetitions / HALF_LIFE))


def effective_tokens(tokens: float, unique: float) -> float:
    """Return how many tokens of new text are worth `tokens` read from a text of `unique` tokens."""
    return tokens if tokens <= unique else unique * worth(tokens / unique)


def repetition_note(epochs: float) -> str | None:
    """Return a warning where so many epochs teach clearly less than new text would, in words; None otherwise."""
    if epochs <= NEARLY_NEW:
        return None
    share = worth(epochs) / epochs
    return (
        f"the text would be read {epochs:.1f} times; past {NEARLY_NEW:.0f} epochs repetition teaches less and less: "
        f"these are worth {worth(epochs):.1f} epochs of new text, {share:.0%} of what is paid for. "
        "A larger model, more text, or a shorter run uses the time better"
    )
