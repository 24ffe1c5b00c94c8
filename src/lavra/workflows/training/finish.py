"""The end of a run: the model is written and measured on validation text, samples are generated, all is recorded."""

from __future__ import annotations

import time
from typing import Any

from lavra.config.transforms import TransformConfig
from lavra.core.progress import log, printable
from lavra.core.seeds import row_streams
from lavra.reports.run_table import predicted_table
from lavra.tasks.labelled_dataset import leaks_of
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.plan import Plan
from lavra.workflows.labels.choice import FROZEN, choose_model
from lavra.workflows.labels.frozen import deliver_frozen, frozen_predictions, frozen_record
from lavra.workflows.labels.labeller import DELIVERS
from lavra.workflows.labels.quality_forecast import recorded_curve
from lavra.workflows.models.merging import write_merged
from lavra.workflows.models.saved_base import companions_folder, write_model
from lavra.workflows.models.surgery import recorded_surgery
from lavra.workflows.training.best_step import checkpoint_to_deliver
from lavra.workflows.training.forecast import against, measured_memory
from lavra.workflows.training.job_parts import JobParts
from lavra.workflows.training.run_length import SAMPLES_SHARE

MODEL_FOLDER = "model"
"""Name of the folder of the finished model in a run."""

_SHOWN_PROMPT = 300
"""Most characters of the prompt of a sample text that are printed."""


def finish(job: JobParts) -> dict[str, Any]:
    """Write and measure the trained model, and write the result of the run.

    Args:
        job: The training job after its last step, on the process that keeps the record.

    Returns:
        The final figures, which are also in `result.json`.
    """
    run, plan, trainer, data = job.run, job.plan, job.trainer, job.dataset
    assert run is not None
    computed = trainer.computed()
    step, targets = trainer.step, trainer.targets
    store = CheckpointStore(run.checkpoints, job.config.keep_checkpoints, on_warning=run.log)
    best = job.config.deliver == "best" and job.task.comparable_losses
    delivered = checkpoint_to_deliver(store, run, step) if best else None
    if delivered is not None:
        trainer.restore(delivered.load, delivered.state)
    job.undo_compilation()  # evaluation and generation use many shapes, and each would be compiled anew
    with trainer.eval_mode():
        merged = export_model(job)
        measured = job.measure() if job.measure is not None else job.task.evaluate(job.trained(SAMPLES_SHARE))
        samples = job.task.samples(job.trained(), job.config.samples)
    _show(samples)
    measured, told = choose_model(job, measured, frozen_predictions(run.path))
    if measured.figures.get(DELIVERS) == FROZEN:
        deliver_frozen(job, run.path / MODEL_FOLDER)
    for sample in samples:
        run.samples.append({"step": step, **sample})
    lines = run.metrics.read()
    usage = data.data_usage(plan, step * plan.global_batch_size)
    result = {
        "step": step,
        **({} if delivered is None else {"delivered_step": delivered.step}),
        "task": plan.task,
        "tokens": int(targets),
        "parameters": plan.parameters,
        "seconds": time.monotonic() - job.began if job.began else None,
        "preparation_seconds": round(job.preparation, 3) if job.began else None,
        "budget_seconds": plan.budget_seconds,
        "checkpoint_wait_seconds": round(job.waited, 3),
        "tokens_per_second": speed_after(lines, _timed(plan)),
        "computed": computed,
        "peak_bytes": measured_memory(plan.device),
        "data": list(job.config.data),
        **measured.figures,
        **leaks_of(data),
        **recorded_curve(run.path),
        **frozen_record(run.path),
        **({} if merged is None else {"folded": merged}),
        **recorded_surgery(run.path),
        "data_usage": usage,
        **_targets_of_text(job, targets, usage),
        "skipped_steps": sum(1 for line in lines if line.get("skipped")),
    }
    result["predicted"] = against(_to_compare(plan, lines), result)
    run.write_result(result)
    log(measured.table)
    if leaks := result.get("leaks"):
        log(leaks["sentence"])
    if told:
        log(told)
    if curve := result.get("learning_curve"):
        log(curve["sentence"])
    if result["predicted"]:
        log(f"predicted against actual\n{predicted_table(result['predicted'])}")
    return result


def _targets_of_text(job: JobParts, targets: float, usage: list[dict[str, Any]]) -> dict[str, float]:
    """Return how often a token of the text was a target on average, for text of which not every token is one.

    The marks that an objective adds and that are predicted, such as the end of an answer, count as targets.
    """
    seen = sum(source["total"] for source in usage)
    plain = job.task.rows != "text" or job.plan.objective == "causal" or not seen
    return {} if plain else {"targets_per_token": round(targets / seen, 4)}


def export_model(job: JobParts) -> dict[str, Any] | None:
    """Write the model with its fp32 master weights, its head and its tokenizer; averaged weights take their place.

    Args:
        job: The training job after its last step, in evaluation mode.

    Returns:
        How far the merged model is from the trained one, for a model with transforms; else None.
    """
    plan, data, run = job.plan, job.dataset, job.home
    weights = {name: weight.detach() for name, weight in job.trainer.master_weights.weights.items()}
    if plan.transforms != TransformConfig():
        rows = data.validation_set(plan).source.rows(0, 1)
        batch = job.trainer.objective.encode(rows, row_streams(0, "folding", first=0), 1.0)
        check = write_merged(run, run / MODEL_FOLDER, plan, weights, data.tokenizer, batch)
        return None if check is None else check.to_json()
    files = companions_folder(run, data.folder)
    head = (plan.task, plan.facts) if job.task.keeps_head else None
    write_model(run / MODEL_FOLDER, job.model, data.tokenizer, files, weights, head)
    return None


def _show(samples: list[dict[str, str]]) -> None:
    """Print the samples, each beside what was expected where that is known."""
    for number, sample in enumerate(samples, start=1):
        if "expected" in sample:
            log(f"--- sample {number}: {printable(sample['prompt'].strip())[-_SHOWN_PROMPT:]}")
            said, wanted = (printable(sample[name].strip()) or "(nothing)" for name in ("text", "expected"))
            log(f"generated: {said}\nexpected:  {wanted}", as_it_is=True)
        else:
            log(f"--- sample {number}")
            log(printable(sample["text"].strip()), as_it_is=True)


def _timed(plan: Plan) -> int:
    """Return how many steps were timed before the run; the first of them, which is slower, is none of the probe's."""
    return int(plan.probe.get("steps", -1)) + 1


def _to_compare(plan: Plan, lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the forecast without the speed where it was made from all of the steps, and would grade itself."""
    after = any(line.get("split", "train") == "train" and line["step"] > _timed(plan) for line in lines)
    return {name: value for name, value in plan.forecast.items() if after or name != "tokens_per_second"}


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
