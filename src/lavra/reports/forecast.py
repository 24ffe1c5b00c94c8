"""The report of `lavra plan` as text."""

from __future__ import annotations

from collections.abc import Iterator

from lavra.core.units import counted, show_count, show_size
from lavra.planning.forecast import Cost, MemoryForecast, PlanReport
from lavra.planning.machine.memory import MemoryEstimate
from lavra.planning.scaling_law.law import Interval
from lavra.reports.formatting import text_table


def show_plan_report(plan_report: PlanReport) -> str:
    """Return the report of a plan as text, in sections: what is trained, time, memory and the forecast of the loss.

    Args:
        plan_report: Report of the plan.
    """
    sections = [
        "\n".join(_what(plan_report)),
        "time\n" + "\n".join(f"  {line}" for line in _time(plan_report)),
        "memory of a training step\n" + _memory(plan_report.memory, plan_report.hardware.name),
        "forecast\n" + "\n".join(f"  {line}" for line in _forecast(plan_report)),
    ]
    sections += [f"note: {note}" for note in plan_report.notes]
    return "\n\n".join(sections)


def rough_duration(seconds: float) -> str:
    """Return an approximate duration as text.

    Args:
        seconds: Duration in seconds.

    Examples:
        >>> rough_duration(1983), rough_duration(15_000)
        ('about 33 minutes', 'about 4.2 hours')
    """
    if seconds < 100:
        return f"about {seconds:.0f} seconds"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.{0 if seconds >= 600 else 1}f} minutes"
    if seconds < 72 * 3600:
        return f"about {seconds / 3600:.1f} hours"
    return f"about {seconds / 86400:.1f} days"


def rough_factor(factor: float) -> str:
    """Return an approximate factor as text.

    Args:
        factor: Factor above 1.

    Examples:
        >>> rough_factor(34.2), rough_factor(12_345.0)
        ('34', '12,000')
    """
    return f"{float(f'{factor:.2g}'):,.0f}"


def rough_speed(tokens_per_second: float) -> str:
    """Return an approximate speed as text.

    Args:
        tokens_per_second: Speed in tokens per second.

    Examples:
        >>> rough_speed(416_000)
        '416 thousand tokens/s'
    """
    for scale, word in ((1e6, " million"), (1e3, " thousand")):
        if tokens_per_second >= scale:
            return f"{tokens_per_second / scale:.3g}{word} tokens/s"
    return f"{tokens_per_second:.3g} tokens/s"


def _what(plan_report: PlanReport) -> Iterator[str]:
    model, text, hardware = plan_report.model, plan_report.text, plan_report.hardware
    chosen = "chosen by the plan: " if model.chosen else ""
    shape = f"{counted(model.depth, 'block')}, width {model.width}, " if model.depth else ""
    yield (
        f"model     {chosen}{model.name}: {show_count(model.parameters)} parameters ({shape}context "
        f"{plan_report.flops.context}, vocabulary {model.vocabulary})"
    )
    if text is not None:
        share = text.tokens.value / max(1.0, text.text_bytes)
        origin = "counted" if text.exact else "from a sample"
        spread = "" if text.exact else f" [{show_count(text.tokens.low)}, {show_count(text.tokens.high)}]"
        yield (
            f"text      {counted(text.documents, 'document')}, {text.text_bytes / 1e6:.2f} MB, "
            f"{show_count(text.tokens.value)} tokens{spread}, {1 / share:.2f} bytes per token, "
            f"{text.fertility:.2f} tokens per word ({origin}, tokenizer {text.tokenizer})"
        )
    passes = ""
    if plan_report.epochs is not None and plan_report.worth is not None:
        passes = f" ({plan_report.epochs:.2f} epochs"
        if plan_report.epochs > 1:
            passes += f", worth {plan_report.worth:.2f} epochs of new text"
        passes += ")"
    yield (
        f"training  {counted(plan_report.steps, 'step')} · {show_count(plan_report.tokens)} tokens{passes} · "
        f"{plan_report.batch_tokens:,} tokens per step"
    )
    yield (
        f"hardware  {hardware.name}: {hardware.peak_flops / 1e12:.4g} TFLOP/s in {hardware.precision}, "
        f"{show_size(hardware.memory)}, {hardware.bandwidth / 1e9:.0f} GB/s ({hardware.source})"
    )


def _time(plan_report: PlanReport) -> Iterator[str]:
    speed, rule, flops = plan_report.speed, plan_report.rule, plan_report.flops
    yield f"efficiency {speed.efficiency:.0%} of the peak ({speed.source})"
    yield (
        f"by the rule 6·N ({flops.rule / 1e6:.4g} MFLOP per token): {rough_speed(rule.peak_tokens_per_second)} peak, "
        f"{rough_speed(rule.tokens_per_second)} expected, {rough_duration(plan_report.rule_cost.seconds)}"
        f"{_extras(plan_report.rule_cost)}"
    )
    ratio = flops.exact / flops.rule
    how = "measured" if plan_report.hardware.here and "measured" in speed.source else "expected"
    yield (
        f"by exact count ({flops.exact / 1e6:.4g} MFLOP per token at context {flops.context}, {ratio:.2f} times the "
        f"rule): "
        f"{rough_speed(speed.peak_tokens_per_second)} peak, {rough_speed(speed.tokens_per_second)} {how}, "
        f"{rough_duration(plan_report.cost.seconds)}{_extras(plan_report.cost)}"
    )
    if plan_report.preparation_seconds is not None:
        yield (
            f"start-up and preparation of the text: {rough_duration(plan_report.preparation_seconds)}; "
            f"total {rough_duration(plan_report.seconds)}"
        )


def _extras(cost: Cost) -> str:
    energy = "" if cost.kilowatt_hours is None else f", {cost.kilowatt_hours:.2g} kWh"
    money = "" if cost.money is None else f", price {cost.money:.2f}"
    return energy + money


def _memory(memory: MemoryForecast, hardware: str) -> str:
    columns = (
        "micro-batch",
        "weights",
        "master weights",
        "gradients",
        "optimiser",
        "logits",
        "activations",
        "process",
        "fits",
    )
    rows = [[str(found.micro_batch_size), *_parts(found), _fits(found, memory)] for found in memory.estimates]
    table = text_table(columns, rows)
    lines = [f"  {line}" for line in table.splitlines()]
    if memory.micro_batch_size is None:
        lines.append(f"  not even one sequence fits into {show_size(memory.available)}")
    else:
        size = next(found.process for found in memory.estimates if found.micro_batch_size == memory.micro_batch_size)
        word = "fits" if memory.fits else "does NOT fit"
        lines.append(
            f"  micro-batch {memory.micro_batch_size}: {show_size(size)} of {show_size(memory.available)} on "
            f"{hardware}: "
            f"{word}"
        )
    if memory.plain is not None:
        plain = memory.plain
        logits = f" ({show_size(plain.logits)})" if plain.logits else ""
        verdict = "would fit too" if plain.fits(memory.available) else "would run out of memory"
        lines.append(
            f"  a plain training loop, which holds all logits at once{logits}, would take "
            f"{show_size(plain.process)} and {verdict}; lavra computes the loss a chunk of tokens at a time"
        )
    return "\n".join(lines)


def _parts(found: MemoryEstimate) -> list[str]:
    names = ("weights", "master_weights", "gradients", "optimizer", "logits", "activations", "process")
    return [show_size(getattr(found, name)) for name in names]


def _fits(found: MemoryEstimate, memory: MemoryForecast) -> str:
    return "yes" if found.fits(memory.available) else "no"


def _forecast(plan_report: PlanReport) -> Iterator[str]:
    forecast = plan_report.forecast
    if forecast is None:
        yield f"no forecast of the loss: {plan_report.no_forecast or 'nothing is known of it'}"
        return
    if forecast.before is not None:
        yield f"before the first step: {forecast.before:.3f} bits per byte"
    if forecast.curve:
        points = (f"{show_count(tokens)} tokens {bits:.3f}" for tokens, bits in forecast.curve)
        yield f"after training on a subset: {', '.join(points)} bits per byte"
    yield f"validation loss: {_interval(forecast.bits_per_byte, '.3f')} bits per byte (90 % interval)"
    if forecast.loss is not None:
        yield f"validation loss: {_interval(forecast.loss, '.3f')} nats per token (90 % interval)"
    if forecast.extrapolated:
        yield (
            f"EXTRAPOLATED: {rough_factor(forecast.beyond)} times the compute of the largest run that the law was "
            "fitted to; the form of the law is an assumption there"
        )
    yield f"based on {forecast.origin}"


def _interval(found: Interval, style: str) -> str:
    return f"{found.value:{style}} [{found.low:{style}}, {found.high:{style}}]"
