"""`lavra tune`: find the learning rate, the batch, or any other option of a training run."""

from __future__ import annotations

import time

from lavra.cli.options import log_next, parse, print_json
from lavra.config.tuning import TuneConfig


def main(arguments: list[str]) -> int:
    """Run `lavra tune …`."""
    began = time.monotonic()  # before the libraries are imported: a budget is the time that a person waits
    config, as_json = parse(
        TuneConfig,
        arguments,
        prog="lavra tune",
        description="Find the options with which training does best on your data, in the time you give, and write them "
        "as a recipe. Takes every option of `lavra train`.\n"
        "By successive halving: all points get a ninth of a run, the best third goes on, and so again.",
        examples=[
            "lavra tune mytext/ --budget 2h",
            "lavra tune mytext/ --budget 1h --sweep optimization.muon-lr=log:0.003..0.1 "
            "--sweep model.width=log:128..512",
            "lavra tune reviews.csv --from minilm/ --epochs 3 --sweep optimization.learning-rate=1e-5,3e-5,1e-4 "
            "--measure macro_f1 --seeds 3",
            "lavra tune mytext/ --steps 500 --method grid --sweep model.activation=relu2,swiglu",
        ],
    )
    from lavra.workflows.tuning.sweep import tune

    run = tune(config, began).run
    if as_json:
        print_json({"run": str(run.path), **run.result})
    else:
        print(run.path)
        log_next(run.path)
    return 0
