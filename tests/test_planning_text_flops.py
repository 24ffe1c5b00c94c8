"""FLOPs for each token of text, as plans reckon them, against those that torch counts in steps of each objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from denoising import OBJECTIVES, objective_for, spec_for, tokenizer_for
from lavra.config.denoising import DenoisingConfig
from lavra.config.training import ObjectiveConfig
from lavra.core.seeds import row_streams
from lavra.data.packing import Window
from lavra.models.native.attention import attending_plainly
from lavra.models.native.building import build_decoder
from lavra.models.presets import as_encoder_decoder
from lavra.models.spec import DecoderSpec
from lavra.objectives.denoise.objective import denoise_for
from lavra.objectives.room import ROWS, Room, expected_longest
from lavra.planning.machine.flops import count_flops, text_flops_per_token, training_flops_per_token
from lavra.tasks.table import find_task, tasks
from replaced_tokens import detector, electra, encoder_spec, masked
from tiny_training import CONTEXT, SPEC, topics_store, topics_tokenizer

TIMES = 4
"""Batches over which what is drawn is averaged."""


def long_windows() -> list[Window]:
    """Whole windows of one long text, as many as a plan assumes in a micro-batch."""
    tokens = np.asarray(topics_store().tokens).astype(np.int64)
    text = np.tile(tokens[tokens != topics_tokenizer().end_of_document], 4)
    found = []
    for number in range(ROWS):
        part = text[number * CONTEXT : (number + 1) * CONTEXT + 1]
        zeros = np.zeros(CONTEXT, np.int64)
        found.append(
            Window(tokens=part, documents=zeros, document_ids=zeros, positions=np.arange(CONTEXT), inputs=part[:-1])
        )
    return found


def counted(model: Any, objective: Any) -> float:
    """Return the FLOPs of forward and backward passes for each token of text."""
    rows, total = long_windows(), 0
    with attending_plainly():
        for seed in range(TIMES):
            batch = objective.encode(rows, row_streams(seed, "flops", first=0), 0.5)
            with FlopCounterMode(display=False) as counter:
                objective.loss(model, batch).sum.backward()
            total += counter.get_total_flops()
    return total / (TIMES * ROWS * CONTEXT)


def reckoned(spec: DecoderSpec, objective: str, base: Any = None) -> float:
    task = next(task for task in tasks() if objective in task.objectives)
    asked = ObjectiveConfig(name=objective, mask_rate=0.15 if objective == "mlm+causal" else None)
    room = task.room(asked, objective, spec.architecture, CONTEXT, None, base=base)
    rates = task.mask_rates(asked, adapting=base is not None)
    assert room.context == CONTEXT
    return text_flops_per_token(spec, room, task.predicted(rates))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_decoder_computes_for_a_text_is_reckoned(name: str):
    spec = spec_for(name)
    base = spec if name == "ul2r" else None
    model = build_decoder(spec)
    found = counted(model, objective_for(name, isolate=False))
    assert reckoned(spec, name, base) == pytest.approx(found, rel=0.05)
    if name not in ("prefix-lm", "mlm+causal"):
        plain = training_flops_per_token(spec, CONTEXT, find_share(name))
        assert found > plain  # what was left out before


def find_share(name: str) -> float:
    """Return the share of the positions at which the head is computed at least."""
    return 1.0 if name == "fim" else 0.15


@pytest.mark.parametrize("name", ["span-corruption", "ul2"])
def test_what_both_sides_of_an_encoder_decoder_compute_is_reckoned(name: str):
    tokenizer = tokenizer_for(name, decoder=False)
    shape = as_encoder_decoder(replace(SPEC, kv_heads=0, depth=4))
    spec = replace(shape, vocabulary=tokenizer.vocabulary_size, context=2 * CONTEXT)
    mixture = DenoisingConfig().mixture(name)
    objective = denoise_for(tokenizer, mixture, CONTEXT, shift=lambda ids: [0, *ids[:-1]], isolate=False)
    assert reckoned(spec, name) == pytest.approx(counted(build_decoder(spec), objective), rel=0.07)


def test_what_an_encoder_computes_of_hidden_words_is_reckoned():
    spec = encoder_spec()
    objective = replace(masked(0.3), isolate=False)
    assert reckoned(spec, "mlm") == pytest.approx(counted(build_decoder(spec), objective), rel=0.05)


def test_what_generator_and_detector_compute_is_reckoned():
    model, objective = detector(0.25), replace(electra(0.15), isolate=False)
    found = counted(model, objective)
    assert reckoned(model.spec, "electra") == pytest.approx(found, rel=0.05)
    assert found > 1.05 * training_flops_per_token(model.spec, CONTEXT, 0.0)


def test_every_objective_of_text_says_what_it_computes():
    of_text = {name for task in tasks() if task.rows == "text" for name in task.objectives}
    assert of_text == {*OBJECTIVES, "causal", "mlm", "electra"}
    assert find_task("language-modelling").room(
        ObjectiveConfig(), "causal", "decoder", CONTEXT, None, base=None
    ) == Room(CONTEXT, CONTEXT)


def test_the_longest_of_some_rows_is_longer_than_the_mean():
    chances = [(0.25, 40.0), (0.5, 32.0), (0.25, 64.0)]
    drawn = np.random.default_rng(0).choice([40.0, 32.0, 64.0], p=[0.25, 0.5, 0.25], size=(20_000, 4)).max(1)
    assert expected_longest(chances, rows=4) == pytest.approx(drawn.mean(), rel=0.01)
    assert expected_longest(chances, rows=1) == pytest.approx(0.25 * 40 + 0.5 * 32 + 0.25 * 64)


def test_a_count_of_a_grown_text_is_that_of_its_positions():
    spec = replace(SPEC, context=128)
    grown = count_flops(spec, 64, room=Room(64, 96, 1.5))
    assert grown.exact == 1.5 * training_flops_per_token(spec, 96)
    assert grown.context == 64
    assert torch.tensor(grown.exact).isfinite()
