"""A plan as it is made before a run."""

from __future__ import annotations

from lavra.models.spec import DecoderSpec
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.plan import Plan


def a_plan() -> Plan:
    """Return a plan of 300 steps in ten minutes."""
    return Plan(
        model=DecoderSpec(positions="alibi"), parameters=123456, context=256, batch_tokens=4096, global_batch_size=16,
        micro_batch_size=8, steps=300, tokens=1_228_800, epochs=1.5, device="cpu", precision="bf16", compile=True,
        threads=2, optimizer=OptimizerOptions(betas=(0.8, 0.99)), schedule=Schedule("cosine"), seed=3, isolate=True,
        label_smoothing=0.1, max_grad_norm=1.0, validation_rows=64, validate_every=30, checkpoint_every=15,
        evaluation_tokens=10_000, flops_per_token=1e9, task="language-modelling",
        objective="causal", budget_seconds=600.0, probe={"step_seconds": 0.25},
    )  # fmt: skip
