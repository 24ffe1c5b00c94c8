"""AdamW without torch's base class."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch

from lavra.training.optimizers.adamw import AdamW


def test_it_goes_where_torchs_own_goes_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(shape, generator=generator) for shape in ((8, 16), (16,), (3,))]
    theirs = [weight.clone() for weight in ours]
    settings: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-10}

    def groups(weights: list[torch.Tensor]) -> list[dict[str, Any]]:
        return [{"params": weights[:1], "lr": 0.1, "weight_decay": 0.2}, {"params": weights[1:], "lr": 0.01}]

    one, other = AdamW(groups(ours), **settings), torch.optim.AdamW(groups(theirs), fused=True, **settings)
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            gradient = torch.randn(a.shape, generator=generator)
            a.grad, b.grad = gradient, gradient.clone()
        if step == 3:  # a weight that took no part in a step stays where it is
            ours[2].grad = theirs[2].grad = None
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(one.state[a][name], state) for name, state in other.state[b].items())


def test_training_that_compiles_nothing_does_not_load_the_compiler() -> None:
    program = """
import sys
from tiny_training import tiny_trainer
trainer = tiny_trainer()
trainer.run_step()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd="tests", check=False).returncode == 0
