"""Give it your text and the time you have: it trains the best language model that this machine can make.

The verbs of the command line are functions here. Each is imported when it is first used, so that `import lavra` is
quick. Where a verb takes data, it takes a file, a folder, or rows in memory.

Examples:
    >>> import lavra
    >>> run = lavra.train("mytext/", budget="20m")     # doctest: +SKIP
    >>> run.generate("Era uma vez")[0].text            # doctest: +SKIP
    >>> run.evaluate().result.total.bits_per_byte      # doctest: +SKIP
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavra.api import (
        check,
        classify,
        compare,
        embed,
        evaluate,
        explain,
        generate,
        infill,
        plan,
        prepare,
        resume,
        runs,
        score,
        train,
        tune,
    )
    from lavra.config.training import TrainConfig
    from lavra.workflows.embeddings.encoder import Encoder
    from lavra.workflows.labels.ensemble import ensemble
    from lavra.workflows.labels.estimator import TextClassifier
    from lavra.workflows.run import Run

for _library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    # `transformers` imports these libraries by itself, and they then warn about features that lavra does not use.
    logging.getLogger(_library).setLevel(logging.ERROR)

__all__ = [
    "Encoder",
    "Run",
    "TextClassifier",
    "TrainConfig",
    "check",
    "classify",
    "compare",
    "embed",
    "ensemble",
    "evaluate",
    "explain",
    "generate",
    "infill",
    "plan",
    "prepare",
    "resume",
    "runs",
    "score",
    "train",
    "tune",
]
__version__ = "0.1.0"

_HOMES = {
    "Encoder": "lavra.workflows.embeddings.encoder",
    "Run": "lavra.workflows.run",
    "TextClassifier": "lavra.workflows.labels.estimator",
    "TrainConfig": "lavra.config.training",
    "ensemble": "lavra.workflows.labels.ensemble",
}
"""The modules of the public names that are not in `lavra.api`."""


def __dir__() -> list[str]:
    """List the public names, also those that have not been imported yet."""
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    """Import a public name when it is used (PEP 562), so that `import lavra` alone loads no heavy library."""
    if name not in __all__:
        raise AttributeError(f"module 'lavra' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "lavra.api")), name)
