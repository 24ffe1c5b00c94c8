"""Sections of the page of a run that give the overview: data, model and machine; results; forecasts against results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lavra.core.units import counted, show_count, show_duration, show_size
from lavra.reports.formatting import TITLES, UNKNOWN, plain, setting, shown, title
from lavra.reports.labels.figures import figures_section
from lavra.reports.labels.headline import headline_of
from lavra.reports.page import Section, Table
from lavra.reports.plots import Bar, bar_plot
from lavra.reports.run_files import RunFiles

_WHILE_TRAINING = ("bits_per_byte", "accuracy", "mean_squared_error", "loss")
"""Metrics of a validation during training, of which the first that there is is shown."""

MEASURES = ("bits_per_byte", "loss", "perplexity", "bits_per_word")
_MOST_SOURCES = 12
_FEW_NAMES = 3


def headline(run: RunFiles) -> str:
    """Return the state and the result of a run in one line."""
    parts = [run.status]
    steps = run.plan.get("steps")
    if run.status != "finished" and run.step:
        parts.append(f"at step {run.step:,} of {steps:,}" if isinstance(steps, int) else f"at step {run.step:,}")
    labelled = headline_of(run.result)
    if labelled is not None:
        parts.append(f"{title(labelled[0])} {shown(*labelled)} {measured_on(run.result)}")
    elif "bits_per_byte" in run.result:
        parts.append(f"{shown('bits_per_byte', run.result['bits_per_byte'])} bits per byte {measured_on(run.result)}")
    elif run.validation:
        last = run.validation[-1]
        where = f"on a sample of the validation text at step {last.get('step')}"
        name = next((name for name in _WHILE_TRAINING if name in last), "bits_per_byte")
        parts.append(f"{shown(name, last.get(name))} {title(name)} {where}")
    if run.plan.get("parameters"):
        parts.append(f"{show_count(run.plan['parameters'])} parameters")
    if run.result.get("seconds"):
        parts.append(show_duration(run.result["seconds"]))
    return "; ".join(parts)


def measured_on(result: Mapping[str, Any]) -> str:
    """Return what the figures of a result were measured on, in words.

    Args:
        result: Values of `result.json`.
    """
    measured = result.get("evaluation") or {}
    if headline_of(result) is not None and isinstance(result.get("rows"), int):
        return f"on {counted(result['rows'], 'validation row')}"
    unit = "document" if "documents" in measured else "row"
    count, every = measured.get(f"{unit}s"), measured.get(f"validation_{unit}s")
    if count is None:
        return "(the validation data was not recorded)"
    known = (plain(measured.get("loss")) is not None) and (measured.get("loss") or {}).get("low") is not None
    noun = "sequence" if unit == "row" else unit
    of = (
        f"{count:,} of {every:,} validation {noun}s"
        if every and every != count
        else counted(count, f"validation {noun}")
    )
    return f"on {of}" + ("" if known else " (too few for an interval)")


def is_linear(run: RunFiles) -> bool:
    """Return whether the model of a run is linear, and was not trained step by step."""
    return (run.plan.get("model") or {}).get("preset") == "linear"


def what_section(run: RunFiles) -> Section:
    """Return the section about the data, the model, the length of the run, the optimiser and the machine."""
    learned = () if is_linear(run) else _length(run)
    facts = [*_data(run), *_model(run), *learned, *_machine(run)]
    return Section("Data, model and machine", facts=[(name, value) for name, value in facts if value])


def _data(run: RunFiles) -> Iterator[tuple[str, str]]:
    yield "data", setting(run.config.get("data") or run.result.get("data"))
    split = run.data.get("split") or {}
    for side, name in (("train", "training data"), ("validation", "validation data")):
        sizes = split.get(side) or {}
        unit = "example" if "examples" in sizes else "document"
        if sizes:
            parts = [counted(sizes.get(f"{unit}s"), unit), counted(sizes.get("tokens"), "token")]
            parts += [f"{sizes['learned']:,} of them targets"] if "learned" in sizes else []
            size = sizes.get("bytes", sizes.get("learned_bytes"))
            parts += [f"{show_size(size)} ({size:,} bytes)"] if size is not None else []
            parts += [counted(sizes["words"], "word")] if "words" in sizes else []
            yield name, ", ".join(parts)
    tokenizer = run.data.get("tokenizer") or {}
    if tokenizer:
        yield (
            "tokenizer",
            f"{tokenizer.get('vocabulary_size', 0):,} tokens, {tokenizer.get('fertility', 0):.2f} per word, "
            f"{tokenizer.get('bytes_per_token', 0):.2f} bytes per token",
        )
    bad = run.data.get("bad_rows") or {}
    if bad:
        yield "rows omitted", "; ".join(_kind(reason, found) for reason, found in bad.items())
        yield "share of bytes omitted", f"{run.data.get('share_left_out', 0):.2%}"
    for name, key in (("changed in reading", "changed"), ("noted in reading", "noted")):
        if run.data.get(key):
            yield name, "; ".join(_kind(kind, found) for kind, found in run.data[key].items())
    for reason, files in (run.data.get("left_out") or {}).items():
        yield "files omitted", f"{reason}: {_few(files)}"
    for found in run.data.get("columns") or []:
        ignored = f"; not used: {', '.join(found['ignored'])}" if found["ignored"] else ""
        yield "columns", f"{', '.join(found['taken'])}{ignored} ({_few(found['files'])})"


def _kind(kind: str, found: Mapping[str, Any]) -> str:
    """Return how often something happened while the data was read, and where it happened first."""
    return f"{found['count']:,} × {kind}: {_few(found['examples'])}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW_NAMES]) + (f" and {len(names) - _FEW_NAMES} more" if len(names) > _FEW_NAMES else "")


def _model(run: RunFiles) -> Iterator[tuple[str, str]]:
    plan, spec = run.plan, run.plan.get("model") or {}
    if plan.get("base"):
        yield "base model", str(plan["base"])
    if is_linear(run):
        yield "model", "linear, on the words and parts of words of a text (TF-IDF)"
    elif spec:
        heads = counted(spec.get("heads"), "head") + (f", {spec['kv_heads']} for keys" if spec.get("kv_heads") else "")
        yield (
            "model",
            f"{spec.get('architecture') or 'decoder'} of {counted(spec.get('depth'), 'block')}, "
            f"width {spec.get('width')}, {heads}, "
            f"context {spec.get('context')}, vocabulary {spec.get('vocabulary')}, {spec.get('positions')}, "
            f"{spec.get('norm')}, {spec.get('activation')}"
            + (", head tied to the embedding" if spec.get("tied") else ""),
        )
    if plan:
        yield "parameters", shown("parameters", plan.get("parameters"))
        yield "objective", str(plan.get("objective", UNKNOWN))
    adapter = (plan.get("transforms") or {}).get("adapter") or {}
    if adapter.get("kind", "none") != "none":
        yield "adapter", f"{adapter['kind']}, rank {adapter.get('rank')}"


def _length(run: RunFiles) -> Iterator[tuple[str, str]]:
    plan = run.plan
    if not plan:
        return
    yield (
        "budget",
        shown("budget_seconds", plan.get("budget_seconds")).replace(UNKNOWN, "no time budget; a length was requested"),
    )
    yield (
        "length",
        f"{counted(plan.get('steps', 0), 'step')} of {counted(plan.get('batch_tokens', 0), 'token')} = "
        f"{counted(plan.get('tokens', 0), 'token')} = {plan.get('epochs', 0):.3g} epochs",
    )
    optimizer, schedule = plan.get("optimizer") or {}, plan.get("schedule") or {}
    yield (
        "optimiser",
        f"{optimizer.get('name')}, peak learning rate {setting(optimizer.get('learning_rate'))}"
        + _of_matrices(optimizer)
        + f", schedule {schedule.get('shape')} with {counted(schedule.get('warmup_steps'), 'step')} of warm-up",
    )
    yield "seed", setting(plan.get("seed"))


def _of_matrices(optimizer: Mapping[str, Any]) -> str:
    """Return the learning rate of the matrices inside the blocks in words; empty where it is that of the others."""
    lr = optimizer.get("muon_lr" if optimizer.get("name") == "muon" else "matrix_lr")
    return "" if lr is None else f", {setting(lr)} for matrices"


def _machine(run: RunFiles) -> Iterator[tuple[str, str]]:
    plan = run.plan
    if plan and not is_linear(run):
        compiled = "compiled" if plan.get("compile") else "not compiled"
        yield (
            "computed on",
            f"{plan.get('device')}, {plan.get('precision')}, {counted(plan.get('threads'), 'thread')}, {compiled}",
        )
    for stretch in run.machines:
        memory = show_size(stretch.get("memory") or 0)
        begun = f"from step {stretch['step']:,}" if stretch.get("step") else "machine"
        yield (
            begun,
            f"{stretch.get('processor')}, {counted(stretch.get('cores'), 'core')}, "
            f"{memory} of memory, {stretch.get('device')}, {stretch.get('system')} ({stretch.get('time')})",
        )
    if run.machines:
        versions = run.machines[-1].get("versions") or {}
        yield "versions", ", ".join(f"{name} {number}" for name, number in versions.items())


def outcome_section(run: RunFiles) -> Section:
    """Return the section of the results: figures with intervals, and baselines on the same validation text."""
    result = run.result
    if not result:
        return _outcome_so_far(run)
    if headline_of(result) is not None:
        return replace(figures_section(result), facts=[*_by_labels(result), *_spent_on_labels(run)])
    measured = result.get("evaluation") or {}
    rows = [(TITLES[name], shown(name, result[name])) for name in MEASURES if name in result]
    rows += _by_labels(result) + _spent(result)
    sizes = [
        counted(measured[name], noun)
        for name, noun in (("bytes", "byte"), ("words", "word"), ("tokens", "token"), ("targets", "target"))
        if name in measured
    ]
    windows = f"; context {measured['context']}, stride {measured['stride']}" if "stride" in measured else ""
    return Section(
        "Results",
        f"Measured {measured_on(result)}: {', '.join(sizes)}{windows}." if measured else "",
        facts=rows,
        pictures=[_baselines(result)],
        tables=_sources(measured.get("sources") or {}),
        note="In brackets: 95 % confidence intervals by bootstrap over documents (or over examples). Bits per byte "
        "refer to the bytes of the original text, so they compare between all models on the same text; loss and "
        "perplexity compare only between models with the same tokenizer.",
    )


def _by_labels(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how well labels are learned from the model, where the run was measured by them, beside a linear model."""
    measured = result.get("measured")
    found = None if measured is None else headline_of(measured)
    if measured is None or found is None:
        return []
    name, figure = found
    other = (measured.get("baseline") or {}).get(name)
    beside = "" if other is None else f"; a linear model has {shown(name, other)}"
    return [(f"{title(name)} on {measured['data']}", f"{shown(name, figure)}{beside} (run: {measured['run']})")]


_SPENT = ("tokens", "tokens_per_second", "peak_bytes", "seconds")


def _spent(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the run took: tokens, speed, memory and time."""
    rows = [(TITLES[name], shown(name, result.get(name))) for name in _SPENT[:-1]]
    spent = shown("seconds", result.get("seconds")).replace(UNKNOWN, "not known, since the run was resumed")
    return [*rows, ("training time", spent)]


def _spent_on_labels(run: RunFiles) -> list[tuple[str, str]]:
    """Return what a run that predicts labels took; its targets are texts, or words and answers of them."""
    of_texts = {"tokens": "texts learned from, in all epochs", "tokens_per_second": "texts per second"}
    names = (
        of_texts
        if run.labels is not None
        else {"tokens": "targets learned from", "tokens_per_second": "targets per second"}
    )
    rows = [(names.get(name, title), value) for (title, value), name in zip(_spent(run.result), _SPENT, strict=True)]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def _outcome_so_far(run: RunFiles) -> Section:
    if not run.validation:
        return Section("Results", "There is no validation yet.")
    last = run.validation[-1]
    rows = [(TITLES[name], shown(name, last[name])) for name in MEASURES if name in last]
    return Section(
        "Results so far",
        f"The last validation, at step {last.get('step')}, on {run.plan.get('validation_rows', '?')} sequences; "
        "a finished run is measured on more text, with confidence intervals.",
        facts=rows,
    )


def _baselines(result: Mapping[str, Any]) -> str:
    sticks = result.get("baselines") or []
    own = result.get("bits_per_byte") or {}
    if not sticks or plain(own) is None:
        return ""
    bars = [Bar(str(stick["name"]), float(stick["bits_per_byte"])) for stick in sticks]
    mine = Bar("this model", float(plain(own)), own.get("low"), own.get("high"), strong=True)
    return bar_plot("Bits per byte on the same validation text (lower is better)", [mine, *bars])


def _sources(sources: Mapping[str, Any]) -> Sequence[Table]:
    if len(sources) < 2:
        return ()
    largest = sorted(sources.items(), key=lambda one: -one[1].get("tokens", 0))[:_MOST_SOURCES]
    rows = [
        [
            name,
            *(f"{one.get(key, 0):,}" for key in ("documents", "tokens")),
            shown("bits_per_byte", one.get("bits_per_byte")),
        ]
        for name, one in largest
    ]
    return [
        Table(
            ["source" + (" (the largest)" * (len(sources) > len(largest))), "documents", "tokens", "bits per byte"],
            rows,
        )
    ]


def predicted_section(run: RunFiles) -> Section:
    """Return the section that compares the forecasts of the plan with the results of the run."""
    compared, forecast = run.result.get("predicted") or {}, run.plan.get("forecast") or {}
    title, reason = "Predicted against actual", run.plan.get("no_forecast")
    told = f"There is no forecast of the loss: {reason}." if reason else ""
    if compared:
        rows = [_compared(name, found) for name, found in compared.items()]
        return Section(title, told, tables=[Table(["figure", "predicted", "actual", "difference"], rows)])
    rows = [
        [TITLES[name], _predicted(name, forecast[name], forecast), UNKNOWN, UNKNOWN]
        for name in forecast
        if name in TITLES
    ]
    return Section(title, told, tables=[Table(["figure", "predicted", "actual", "difference"], rows)] if rows else ())


def _compared(name: str, found: Mapping[str, float]) -> list[str]:
    predicted = {"value": found["predicted"], "low": found.get("low"), "high": found.get("high")}
    return [TITLES.get(name, name), shown(name, predicted), shown(name, found["actual"]), f"{found['difference']:+.1%}"]


def _predicted(name: str, value: float, forecast: Mapping[str, float]) -> str:
    return shown(name, {"value": value, "low": forecast.get(f"{name}_low"), "high": forecast.get(f"{name}_high")})
