"""The shapes of the JSON files in a run folder, as far as reports and later commands read them.

Each constant describes one file or one line of a file: `CONFIG` what is read of `config.toml`, `PLAN` `plan.json`,
`RESULT` `result.json`, `METRICS` a line of `metrics.jsonl`, `SAMPLE` a line of `samples.jsonl`, `STABILITY` a line of
`stability.jsonl`, `CHECKS` `checks.json`, `WORDS` `words.json`, `DATA` the report on the prepared data, and `MACHINE` a
line of `machines.jsonl`.
"""

from __future__ import annotations

from lavra.core.disk.shapes import NUMBER, SETTING, TEXT, WHOLE, Either, ListOf, Plain, Shape, Table

_ESTIMATE = Either((NUMBER, Table(dict.fromkeys(("value", "low", "high"), NUMBER), needed=("value",))))
_MEASURE_NAMES = ("loss", "perplexity", "bits_per_byte", "bits_per_character", "bits_per_word", "accuracy")
_MEASURES = dict.fromkeys(_MEASURE_NAMES, _ESTIMATE)
_SIZE_NAMES = ("documents", "examples", "tokens", "bytes", "characters", "words", "learned", "source_tokens")
_SIZES: dict[str, Shape] = dict.fromkeys((*_SIZE_NAMES, "learned_bytes"), WHOLE)

CONFIG = Table({"data": Either((TEXT, ListOf(TEXT)))})

PLAN = Table(
    {
        **dict.fromkeys(("parameters", "context", "batch_tokens", "steps", "tokens", "validation_rows"), WHOLE),
        **dict.fromkeys(("epochs", "budget_seconds", "threads", "seed", "start_bits_per_byte"), NUMBER),
        **dict.fromkeys(("device", "precision", "objective", "base"), TEXT),
        "model": Either((Plain("nothing", ()), Table())),
        "optimizer": Table(),
        "schedule": Table(),
        "transforms": Table({"adapter": Table()}),
        "forecast": Table({"method": TEXT}, rest=Either((NUMBER, SETTING))),
        "probe": Table(rest=NUMBER),
    }
)

_MEASURED = Table(
    {
        **_MEASURES,
        **_SIZES,
        **dict.fromkeys(("targets", "rows", "context", "stride", "validation_documents", "validation_rows"), WHOLE),
        "sources": Table(rest=Table({**_MEASURES, **_SIZES})),
    }
)

RESULT = Table(
    {
        **_MEASURES,
        **dict.fromkeys(("step", "tokens", "parameters", "skipped_steps"), WHOLE),
        **dict.fromkeys(
            ("seconds", "preparation_seconds", "budget_seconds", "tokens_per_second", "peak_bytes"), NUMBER
        ),
        "data": Either((TEXT, ListOf(TEXT))),
        "evaluation": _MEASURED,
        "baselines": ListOf(Table({"name": TEXT, "bits_per_byte": NUMBER}, needed=("name", "bits_per_byte"))),
        "infilling": Table({"documents": WHOLE}),
        "denoising": Table({"targets": WHOLE, "rows": WHOLE}),
        "targets_per_token": NUMBER,
        "data_usage": ListOf(
            Table({"source": TEXT} | dict.fromkeys(("tokens", "epochs", "seen", "left", "total"), NUMBER))
        ),
        "predicted": Table(
            rest=Table(
                dict.fromkeys(("predicted", "actual", "difference", "low", "high"), NUMBER),
                needed=("predicted", "actual", "difference"),
            )
        ),
    }
)

METRICS = Table(
    {"step": WHOLE, "split": TEXT, "skipped": SETTING, **dict.fromkeys(("tokens", *_MEASURES), NUMBER)},
    rest=SETTING,
)

SAMPLE = Table({"step": WHOLE, "prompt": TEXT, "text": TEXT, "expected": TEXT})

STABILITY = Table(
    {
        "step": WHOLE,
        "applied": SETTING,
        "tensors": Table(rest=Table(rest=NUMBER)),
        "layers": Table(rest=Table(rest=NUMBER)),
        "histograms": Table(rest=ListOf(WHOLE)),
    },
    needed=("step",),
)

CHECKS = Table(
    {
        "verdict": TEXT,
        "seconds": NUMBER,
        "skipped": ListOf(Plain("a text", (str,), empty=False)),
        "checks": ListOf(
            Table(
                {
                    **dict.fromkeys(("name", "verdict", "measured", "expected", "remedy"), TEXT),
                    "details": ListOf(Plain("a text", (str,), empty=False)),
                },
                needed=("name", "verdict"),
            )
        ),
    }
)

DATA = Table(
    {
        "split": Table({side: Table(_SIZES) for side in ("train", "validation")}),
        "tokenizer": Table(dict.fromkeys(("vocabulary_size", "fertility", "bytes_per_token"), NUMBER)),
        "bad_rows": Table(),
    }
)

_WORDS = ListOf(Table({"word": TEXT, "effect": NUMBER}, needed=("word", "effect")))

WORDS = Table(
    {
        "method": TEXT,
        "rows": ListOf(Table({"row": WHOLE, "output": TEXT, "words": _WORDS}, needed=("row", "output"))),
        "outputs": Table(rest=_WORDS),
    }
)

MACHINE = Table(
    {
        "step": WHOLE,
        **dict.fromkeys(("cores", "memory"), NUMBER),
        **dict.fromkeys(("time", "processor", "device", "system"), TEXT),
        "versions": Table(rest=SETTING),
    }
)
