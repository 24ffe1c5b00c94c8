"""The end of a run: the model is written and measured on validation text, samples are generated, all is recorded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavra.config.generation import GenerateOptions
from lavra.config.training import TrainConfig
from lavra.config.transforms import TransformConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import LavraError
from lavra.core.progress import log, printable
from lavra.core.seeds import row_streams
from lavra.core.units import counted
from lavra.evaluation.baselines import baselines, count_tokens
from lavra.evaluation.document_losses import DOCUMENT_LOSSES, DocumentLosses, text_fingerprint
from lavra.evaluation.documents import Documents, documents_of_store
from lavra.evaluation.likelihood import likelihood
from lavra.evaluation.results import LikelihoodResult, likelihood_table
from lavra.generation.generate import generate
from lavra.models.protocols import Model
from lavra.planning.plan import Plan
from lavra.reports.run_table import predicted_table
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.validation import validation_loss
from lavra.workflows.datasets.dataset import Dataset, TextDataset
from lavra.workflows.models.merging import write_merged
from lavra.workflows.models.saved_base import companions_folder, write_model
from lavra.workflows.training.autoconfig import sample_tokens
from lavra.workflows.training.best_step import checkpoint_to_deliver
from lavra.workflows.training.build import TrainingJob
from lavra.workflows.training.forecast import against, measured_memory

MODEL_FOLDER = "model"
"""Name of the folder of the finished model in a run."""

_SHOWN_PROMPT = 300
"""Most characters of the prompt of a sample text that are printed."""


def finish(
    config: TrainConfig,
    plan: Plan,
    job: TrainingJob,
    data: Dataset,
    run: RunFolder,
    *,
    waited: float,
    training_began: float | None = None,
) -> dict[str, Any]:
    """Write and measure the trained model, and write the result of the run.

    Args:
        config: The request.
        plan: The plan of the run.
        job: The training job after its last step.
        data: The data set.
        run: The folder of the run.
        waited: Seconds that training waited for checkpoints.
        training_began: When training started (`time.monotonic`); None after a resume, because the time is then not a
            single stretch.

    Returns:
        The final figures, which are also in `result.json`.
    """
    trainer = job.trainer
    computed = trainer.computed()
    step, targets = trainer.step, trainer.targets
    store = CheckpointStore(run.checkpoints, config.keep_checkpoints, on_warning=run.log)
    delivered = checkpoint_to_deliver(store, run, step)
    if delivered is not None:
        trainer.restore(delivered.load, delivered.state)
    job.undo_compilation()  # evaluation and generation use many shapes, and each would be compiled anew
    with trainer.eval_mode():
        merged = export_model(run.path, plan, job, data)
        figures, table = _measure(plan, job, data, run.path)
        samples = _samples(config, plan, job.model, data)
    for sample in samples:
        run.samples.append({"step": step, **sample})
    seconds = None if training_began is None else time.monotonic() - training_began
    lines = run.metrics.read()
    result = {
        "step": step,
        **({} if delivered is None else {"delivered_step": delivered.step}),
        "tokens": int(targets),
        "parameters": plan.parameters,
        "seconds": seconds,
        "budget_seconds": plan.budget_seconds,
        "checkpoint_wait_seconds": round(waited, 3),
        "tokens_per_second": speed_after(lines, int(plan.probe.get("steps", 0))),
        "computed": computed,
        "peak_bytes": measured_memory(plan.device),
        "data": list(config.data),
        **figures,
        **({} if merged is None else {"folded": merged}),
        "data_usage": data.data_usage(plan, step),
        "skipped_steps": sum(1 for line in lines if line.get("skipped")),
    }
    result["predicted"] = against(plan.forecast, result)
    run.write_result(result)
    log(table)
    if result["predicted"]:
        log(f"predicted against actual\n{predicted_table(result['predicted'])}")
    return result


def export_model(run: Path, plan: Plan, job: TrainingJob, data: Dataset) -> dict[str, Any] | None:
    """Write the model with its fp32 master weights and its tokenizer; averaged weights take their place if there are.

    Args:
        run: The folder of the run.
        plan: The plan of the run.
        job: The training job after its last step.
        data: The data set.

    Returns:
        How far the merged model is from the trained one, for a model with transforms; else None.
    """
    weights = {name: weight.detach() for name, weight in job.trainer.master_weights.weights.items()}
    if plan.transforms != TransformConfig():
        rows = data.validation_set(plan).source.rows(0, 1)
        batch = job.trainer.objective.encode(rows, row_streams(0, "folding", first=0), 1.0)
        check = write_merged(run, run / MODEL_FOLDER, plan, weights, data.tokenizer, batch)
        return None if check is None else check.to_json()
    files = companions_folder(run, data.folder)
    write_model(run / MODEL_FOLDER, job.model, data.tokenizer, files, weights)
    return None


def _measure(plan: Plan, job: TrainingJob, data: Dataset, run: Path) -> tuple[dict[str, Any], str]:
    """Return the figures on the validation data as plain values, and as a table."""
    if plan.objective == "causal" and isinstance(data, TextDataset):
        return _measure_text(plan, job.model, data, run)
    validation_set = data.validation_set(plan)
    rows = min(validation_set.rows, max(1, plan.evaluation_tokens // plan.context))
    measured = validation_loss(
        job.model,
        job.trainer.objective,
        validation_set.source,
        rows,
        name=plan.objective,
        bytes_per_target=validation_set.bytes_per_target,
        device=job.trainer.device,
        seed=plan.seed,
    )
    values = measured.to_json()
    figures = {name: values[name] for name in ("loss", "perplexity", "bits_per_byte")}
    return {**figures, "evaluation": {**values, "validation_rows": validation_set.rows}}, str(measured)


def _measure_text(plan: Plan, model: Model, data: TextDataset, run: Path) -> tuple[dict[str, Any], str]:
    every = documents_of_store(data.prepared.validation, data.tokenizer)
    documents = every.sample(plan.evaluation_tokens)
    context = plan.context if plan.base is not None else None
    with torch.no_grad():
        result = likelihood(model, documents, context=context, seed=plan.seed)
    _losses(data, every, result).save(run / DOCUMENT_LOSSES)
    counts = count_tokens(data.prepared.train.tokens, data.tokenizer.vocabulary_size)
    sticks = baselines(documents, documents.texts(data.tokenizer), data.tokenizer.vocabulary_size, counts)
    measured = result.to_json()
    figures = {
        **{name: measured[name] for name in ("loss", "perplexity", "bits_per_byte", "bits_per_word")},
        "baselines": [stick.to_json() for stick in sticks],
        "evaluation": {**measured, "validation_documents": len(every)},
    }
    table = likelihood_table(result, sticks)
    if len(documents) < len(every):
        table += (
            f"\n(on {len(documents):,} of {counted(len(every), 'validation document')}, to keep to the time; "
            "`lavra evaluate` measures all of them)"
        )
    return figures, table


def _losses(data: TextDataset, every: Documents, result: LikelihoodResult) -> DocumentLosses:
    """Return the loss of each measured document, for comparisons with other runs on the same validation text."""
    manifest = data.prepared.validation.manifest
    return DocumentLosses(
        text_fingerprint(source.fingerprint for source in manifest.sources),
        manifest.tokenizer_fingerprint,
        np.searchsorted(every.starts, result.per_document.starts),
        result.per_document.bytes,
        result.nll,
    )


def _samples(config: TrainConfig, plan: Plan, model: Any, data: Dataset) -> list[dict[str, Any]]:
    """Generate sample texts: new documents, or answers to validation prompts, shown beside the expected ones."""
    if not config.samples or plan.objective == "mlm":
        return []
    asked = data.samples(config.samples)
    prompts = list(dict.fromkeys(prompt for prompt, _ in asked))
    options = GenerateOptions(
        max_new_tokens=sample_tokens(plan),
        samples=1 if data.examples else config.samples,
        greedy=data.examples,
        seed=config.seed,
        long_prompt="window",
    )
    try:
        with torch.no_grad():
            made = generate(model, data.tokenizer, prompts, options)
    except Exception as error:  # the run is trained and measured: no sample text is worth losing that
        reason = error.message if isinstance(error, LavraError) else f"{type(error).__name__}: {error}"
        log(f"no sample text was generated: {printable(reason)}")
        return []
    expected = dict(asked)
    for number, one in enumerate(made, start=1):
        if data.examples:
            log(f"--- sample {number}: {printable(one.prompt.strip())[-_SHOWN_PROMPT:]}")
            log(f"generated: {printable(one.text.strip())}\nexpected:  {printable(expected[one.prompt].strip())}")
        else:
            log(f"--- sample {number}\n{printable(one.text.strip())}")
    texts = [{"prompt": one.prompt, "text": one.text} for one in made]
    return [{**one, "expected": expected[one["prompt"]]} if data.examples else one for one in texts]


def speed_after(lines: list[dict[str, Any]], probed: int) -> float | None:
    """Return the tokens per second of the logged steps after the timed ones, from which the forecast was made.

    The speed is the sum of the tokens over the sum of the seconds, where the seconds of a line are its tokens over its
    logged speed. The timed steps count only where there are no others.

    Args:
        lines: The lines of `metrics.jsonl`.
        probed: Number of steps that were timed before the run.

    Returns:
        Tokens per second; None where no speed was logged.
    """
    before, done = 0.0, []
    for line in lines:
        if line.get("split", "train") != "train" or not line.get("tokens"):
            continue
        tokens, before = line["tokens"] - before, line["tokens"]
        if line.get("tokens_per_second") and tokens > 0:
            done.append((line["step"], tokens, tokens / line["tokens_per_second"]))
    counted = [one for one in done if one[0] > probed] or done
    return sum(tokens for _, tokens, _ in counted) / sum(seconds for *_, seconds in counted) if counted else None
