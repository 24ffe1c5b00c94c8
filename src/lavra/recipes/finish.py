"""The end of a run: the model on its own, its figures on held-out text, samples, and the record of all that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from lavra.core.progress import say
from lavra.core.run_folder import RunFolder
from lavra.core.terminal import printable
from lavra.evaluation.documents import documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.evaluation.tables import likelihood_table
from lavra.evaluation.yardsticks import count_tokens, yardsticks
from lavra.generation.generate import generate
from lavra.generation.options import GenerateOptions
from lavra.models.contract import Model
from lavra.planning.plan import Plan
from lavra.recipes.assembly import Assembly
from lavra.recipes.config import TrainConfig
from lavra.recipes.kept import BASE, write_model
from lavra.recipes.material import Material, TextMaterial
from lavra.training.held_out import held_out_loss

MODEL_FOLDER = "model"
_SAMPLE_TOKENS = 120


def finish(
    config: TrainConfig,
    plan: Plan,
    assembly: Assembly,
    data: Material,
    run: RunFolder,
    *,
    waited: float,
    training_began: float | None = None,
) -> dict[str, Any]:
    """Export and measure the trained model, and write the result.

    Args:
        config: the request.
        plan: what was decided.
        assembly: the trainer after its last step.
        data: the token stores.
        run: the record.
        waited: seconds that training waited for checkpoints.
        training_began: when training began (`time.monotonic`); None after a resume, when the time is no single stretch.
    """
    trainer = assembly.trainer
    assembly.undo_compilation()  # evaluation and generation come in many shapes, each of which would be compiled
    with trainer.evaluating():
        export_model(run.path, assembly, data)
        figures, table = _measure(plan, assembly, data)
        samples = _samples(config, assembly.model, data) if plan.objective == "causal" else []
    for text in samples:
        run.samples.append({"step": trainer.step, "prompt": "", "text": text})
    seconds = None if training_began is None else time.monotonic() - training_began
    lines = run.metrics.read()
    result = {
        "step": trainer.step,
        "tokens": int(trainer.targets),
        "parameters": plan.parameters,
        "seconds": seconds,
        "budget_seconds": plan.budget_seconds,
        "checkpoint_wait_seconds": round(waited, 3),
        "tokens_per_second": _speed(lines),
        "data": list(config.data),
        **figures,
        "ledger": data.receipt(plan, trainer.step),
        "skipped_steps": sum(1 for line in lines if line.get("skipped")),
    }
    run.write_result(result)
    say(table)
    return result


def export_model(run: Path, assembly: Assembly, data: Material) -> None:
    """Write the model with its learned fp32 weights (the averaged ones, where there are) and its tokenizer."""
    weights = {name: weight.detach() for name, weight in assembly.trainer.masters.weights.items()}
    write_model(run / MODEL_FOLDER, assembly.model, data.tokenizer, run / BASE, weights)


def _measure(plan: Plan, assembly: Assembly, data: Material) -> tuple[dict[str, Any], str]:
    """Return the figures on held-out rows as JSON, and as a table."""
    if plan.objective == "causal" and isinstance(data, TextMaterial):
        return _measure_text(plan, assembly.model, data)
    held_out = data.held_out(plan)
    rows = min(held_out.rows, max(1, plan.evaluation_tokens // plan.context))
    measured = held_out_loss(
        assembly.model,
        assembly.trainer.objective,
        held_out.source,
        rows,
        name=plan.objective,
        bytes_per_target=held_out.bytes_per_target,
        device=assembly.trainer.device,
        seed=plan.seed,
    )
    values = measured.to_json()
    figures = {name: values[name] for name in ("loss", "perplexity", "bits_per_byte")}
    return {**figures, "evaluation": {**values, "held_out_rows": held_out.rows}}, str(measured)


def _measure_text(plan: Plan, model: Model, data: TextMaterial) -> tuple[dict[str, Any], str]:
    every = documents_of_store(data.prepared.validation, data.tokenizer)
    documents = every.sample(plan.evaluation_tokens)
    context = plan.context if plan.base is not None else None
    with torch.no_grad():
        result = likelihood(model, documents, context=context, seed=plan.seed)
    counts = count_tokens(data.prepared.train.tokens, data.tokenizer.vocabulary_size)
    sticks = yardsticks(documents, documents.texts(data.tokenizer), data.tokenizer.vocabulary_size, counts)
    measured = result.to_json()
    figures = {
        **{name: measured[name] for name in ("loss", "perplexity", "bits_per_byte", "bits_per_word")},
        "yardsticks": [stick.to_json() for stick in sticks],
        "evaluation": {**measured, "held_out_documents": len(every)},
    }
    table = likelihood_table(result, sticks)
    if len(documents) < len(every):
        table += (
            f"\n(on {len(documents):,} of {len(every):,} held-out documents, to keep to the time; "
            "`lavra evaluate` measures all)"
        )
    return figures, table


def _samples(config: TrainConfig, model: Any, data: Material) -> list[str]:
    if not config.samples:
        return []
    options = GenerateOptions(max_new_tokens=_SAMPLE_TOKENS, samples=config.samples, seed=config.seed)
    with torch.no_grad():
        texts = [generation.text for generation in generate(model, data.tokenizer, [""], options)]
    for number, text in enumerate(texts, start=1):
        say(f"--- sample {number}\n{printable(text.strip())}")
    return texts


def _speed(lines: list[dict[str, Any]]) -> float | None:
    """Return the median of the logged speeds."""
    speeds = sorted(line["tokens_per_second"] for line in lines if line.get("tokens_per_second"))
    return speeds[len(speeds) // 2] if speeds else None
