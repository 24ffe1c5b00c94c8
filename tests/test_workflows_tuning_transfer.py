"""Learning rates transfer over width: what is best for a narrow model is best for one four times as wide."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lavra.config.training import MachineConfig, ModelConfig, OptimizationConfig, TextConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.workflows.training.train import train

FACTORS = (1 / 3, 1.0, 3.0, 9.0)
RATES = {"learning_rate": 6e-3, "embedding_lr": 0.15, "muon_lr": 0.014}
"""The rates of a run from scratch, which are multiplied by the factors together."""


def _text(path: Path) -> Path:
    """Write a text whose next word depends on the two before it, so that attention has something to learn."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 6))) for _ in range(120)]
    rows = []
    for _ in range(260):
        row = chance.sample(range(120), 2)
        for _ in range(160):
            first, second = row[-2:]
            rule = random.Random(first * 7919 + second % 12)
            row.append(rule.randrange(120) if chance.random() < 0.85 else chance.randrange(120))
        rows.append(" ".join(words[number] for number in row))
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


@pytest.mark.heavy
def test_the_best_rate_of_a_narrow_model_is_within_a_factor_of_three_of_that_of_a_wide_one(tmp_path: Path) -> None:
    text, best = _text(tmp_path / "text.jsonl"), {}
    for width in (64, 256):
        bits = []
        for number, factor in enumerate(FACTORS):
            rates = {name: rate * factor for name, rate in RATES.items()}
            config = TrainConfig(
                data=(str(text),),
                steps=160,
                out=str(tmp_path / f"{width}-{number}"),
                text=TextConfig(vocabulary=300),
                model=ModelConfig(depth=1, width=width, context=64),
                optimization=OptimizationConfig(batch_tokens=512, bigram_init=False, **rates),
                machine=MachineConfig(device="cpu", threads=1, precision="fp32"),
                check=False,
                samples=0,
            )
            bits.append(RunFolder(train(config).path).result["bits_per_byte"]["value"])
        best[width] = bits.index(min(bits))
        assert 0 < best[width] < len(FACTORS) - 1, bits  # inside of what was tried, so that it says something
    assert abs(best[64] - best[256]) <= 1
