"""Golden losses: 20 fixed steps of a tiny model of each preset's style, so that numerics cannot drift unseen.

The values lie in `golden_losses.json`. A change of them is a change of what every run computes, and wants a reason. To
write them anew:

    LAVRA_WRITE_GOLDEN=1 .venv/bin/python -m pytest tests/test_training_golden.py

Tolerance: 1e-4 nats under AdamW in fp32, where processors differ by rounding alone (5e-6 between the AVX-512, AVX2 and
plain kernels of one machine), and 2e-2 under Muon, whose orthogonalisation runs in bf16 (3e-3 between them).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavra.config.choices import OptimizerName
from lavra.data.packing import Window
from lavra.models.native.building import build_decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec
from lavra.objectives.causal import Causal
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from lavra.training.updates import Clip

STORED = Path(__file__).with_name("golden_losses.json")
STEPS = 20
CONTEXT = 32
TOLERANCE: dict[OptimizerName, float] = {"adamw": 1e-4, "muon": 2e-2}

# Camões, Os Lusíadas (1572), the first two stanzas: each line is a document, its line feed the end-of-document token.
TEXT = """As armas e os barões assinalados,
Que da ocidental praia Lusitana,
Por mares nunca de antes navegados,
Passaram ainda além da Taprobana,
Em perigos e guerras esforçados,
Mais do que prometia a força humana,
E entre gente remota edificaram
Novo Reino, que tanto sublimaram;

E também as memórias gloriosas
Daqueles Reis, que foram dilatando
A Fé, o Império, e as terras viciosas
De África e de Ásia andaram devastando;
E aqueles, que por obras valerosas
Se vão da lei da morte libertando;
Cantando espalharei por toda parte,
Se a tanto me ajudar o engenho e arte.
"""


class Passage:
    """The text's bytes, window after window, round and round."""

    def __init__(self) -> None:
        self.ids = np.frombuffer(TEXT.encode(), dtype=np.uint8).astype(np.int64)

    def rows(self, start: int, count: int) -> list[Window]:
        return [self.window(number * CONTEXT) for number in range(start, start + count)]

    def window(self, begin: int) -> Window:
        tokens = self.ids[np.arange(begin - 1, begin + CONTEXT) % len(self.ids)]
        begins = tokens[:-1] == ord("\n")
        begins[0] = True
        document_ids = np.cumsum(begins) - 1
        columns = np.arange(CONTEXT)
        positions = columns - np.maximum.accumulate(np.where(begins, columns, 0))
        return Window(tokens, document_ids, document_ids.astype(np.int32), positions, tokens[:-1])


def tiny(preset: str) -> DecoderSpec:
    """The style of a preset in the smallest size; grouped heads stay grouped."""
    spec = PRESETS[preset]
    size = {"vocabulary": 256, "context": CONTEXT, "width": 64, "depth": 2, "heads": 4}
    return replace(spec, **size, kv_heads=2 if spec.kv_heads else 0, mlp_width=96 if spec.mlp_width else 0)


def losses(preset: str, optimizer: OptimizerName) -> list[float]:
    """The losses of the first and of the last step."""
    objective = Causal(CONTEXT)
    batches = BatchSource(Passage(), objective, global_batch_size=4, micro_batch_size=2, steps=STEPS, seed=0)
    trainer = Trainer(
        build_decoder(tiny(preset), seed=0),
        objective,
        batches,
        optimizer=OptimizerOptions(optimizer),
        schedule=Schedule(warmup_steps=5),
        precision="fp32",
        device=torch.device("cpu"),
        steps=STEPS,
        updates=[Clip(1.0)],
    )
    found = [trainer.run_step().loss for _ in range(STEPS)]
    return [found[0], found[-1]]


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, list[float]]]:
    values: dict[str, list[float]] = json.loads(STORED.read_text()) if STORED.exists() else {}
    yield values
    if os.environ.get("LAVRA_WRITE_GOLDEN"):
        STORED.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def styles() -> list[str]:
    """The first preset of each style of decoder."""
    first: dict[DecoderSpec, str] = {}
    for preset, spec in PRESETS.items():
        if spec.architecture == "decoder":
            first.setdefault(tiny(preset), preset)
    return list(first.values())


@pytest.mark.parametrize(
    ("preset", "optimizer"),
    [*((preset, "adamw") for preset in styles()), ("gpt2-124m", "muon"), ("lavra-9m", "muon")],
)
def test_the_loss_is_what_it_always_was(preset: str, optimizer: OptimizerName, golden: dict[str, list[float]]):
    found, name = losses(preset, optimizer), f"{preset} {optimizer}"
    assert found[1] < found[0] - 1.0
    if os.environ.get("LAVRA_WRITE_GOLDEN"):
        golden[name] = [round(loss, 6) for loss in found]
    assert name in golden, "a new style of model wants its golden losses written: see the top of this file"
    assert found == pytest.approx(golden[name], rel=0, abs=TOLERANCE[optimizer])
