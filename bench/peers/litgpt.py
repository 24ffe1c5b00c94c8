"""litgpt's pretrain, with a Pythia configuration, in an environment of its own.

Its command line trains on raw text only through `litdata`, and with a tokenizer folder of its own kind; so its Python
function `litgpt.pretrain.setup`, which is all that the command line calls, is given the blocks as a data module.
It always compiles the whole model; the variants without compilation switch the compiler off by TORCHDYNAMO_DISABLE.
bf16 is its `bf16-mixed`. An environment beside an existing one, whose torch it then shares:

    python -m venv --without-pip /tmp/venv-litgpt
    echo "$PWD/.venv/lib/python3.11/site-packages" > /tmp/venv-litgpt/lib/python3.11/site-packages/project.pth
    .venv/bin/python -m pip --python /tmp/venv-litgpt/bin/python install --no-deps \
        litgpt lightning lightning-utilities torchmetrics "jsonargparse==4.41.0" docstring-parser typeshed-client
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from bench.peers.jobs import BETAS, CLIP, EVERY_VARIANT, WARMUP_STEPS, WEIGHT_DECAY, Command, Job, child


class LitGPT:
    """The adapter; `python` is the interpreter of an environment that has litgpt."""

    name = "litgpt"
    variants = EVERY_VARIANT

    def __init__(self, python: str) -> None:
        self.python = python

    def versions(self) -> dict[str, str | None]:
        """Return the versions in its environment; raises FileNotFoundError when there is no litgpt."""
        names = ("litgpt", "lightning", "torch")
        program = f"from importlib.metadata import version; print(*map(version, {names}))"
        done = subprocess.run([self.python, "-c", program], capture_output=True, text=True)
        if done.returncode:
            raise FileNotFoundError(f"{self.python} has no litgpt: {done.stderr.strip().splitlines()[-1]}")
        return dict(zip(names, done.stdout.split(), strict=True))

    def train(self, job: Job) -> Command:
        """Return the command."""
        environment = {} if job.variant.compiled else {"TORCHDYNAMO_DISABLE": "1"}
        words = child("litgpt", "train", job, self.python)
        model = job.out / "final" / "lit_model.pth"
        return Command(words, model, r"\| iter (\d+) step \d+ \|", environment=environment)

    def score(self, job: Job) -> list[str]:
        """Return the command that scores."""
        return child("litgpt", "score", job, self.python)


def _config(job: Job) -> Any:
    from litgpt.config import Config  # pyright: ignore[reportMissingImports]

    shape = job.shape
    return Config(
        name="pythia-of-the-benchmark",
        block_size=shape.context,
        n_layer=shape.depth,
        n_embd=shape.width,
        n_head=shape.heads,
        vocab_size=shape.vocabulary,
        padding_multiple=64,
    )


def _data(job: Job) -> Any:
    from bench.peers.blocks import Blocks
    from litgpt.data import DataModule  # pyright: ignore[reportMissingImports]
    from torch.utils.data import DataLoader

    class Stream(DataModule):
        """Blocks of one context and the token after it."""

        def connect(
            self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any
        ) -> None:
            self.rows = batch_size

        def _loader(self, side: str, shuffle: bool) -> DataLoader[Any]:
            blocks = Blocks(job.text / f"{side}.bin", job.shape.context + 1, job.shape.context)
            loader = DataLoader(blocks, batch_size=self.rows, shuffle=shuffle, drop_last=True)
            # A checkpoint holds the loader's state, and where it has none the object itself, as a pickle.
            loader.state_dict, loader.load_state_dict = dict, _nothing
            return loader

        def train_dataloader(self) -> DataLoader[Any]:
            return self._loader("train", True)

        def val_dataloader(self) -> DataLoader[Any]:
            return self._loader("val", False)

    return Stream()


def _nothing(state: dict[str, Any]) -> None:
    """There is no state to restore."""


def _train(job: Job) -> None:
    from litgpt.args import EvalArgs, TrainArgs  # pyright: ignore[reportMissingImports]
    from litgpt.pretrain import setup  # pyright: ignore[reportMissingImports]

    config = _config(job)
    sys.argv = ["litgpt", "pretrain", config.name]  # it writes down its command line beside the model
    train = TrainArgs(
        save_interval=None,
        log_interval=1,
        global_batch_size=job.shape.rows,
        micro_batch_size=job.shape.rows,
        lr_warmup_steps=min(WARMUP_STEPS, job.steps // 4),
        max_tokens=job.steps * job.shape.batch_tokens,
        max_seq_length=job.shape.context,
        max_norm=CLIP,
        min_lr=job.learning_rate / 10,
        tie_embeddings=False,
    )
    options = {"lr": job.learning_rate, "weight_decay": WEIGHT_DECAY, "betas": BETAS}
    setup(
        config.name,
        model_config=config,
        out_dir=job.out,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[job.variant.precision],
        data=_data(job),
        train=train,
        eval=EvalArgs(interval=10**9, max_iters=1, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": options},
        devices=1,
        logger_name="csv",
        seed=job.seed,
    )


def _score(job: Job) -> None:
    import torch
    from bench.peers.scoring import of_logits, report, total_nats
    from litgpt.model import GPT  # pyright: ignore[reportMissingImports]

    model = GPT(_config(job))
    saved = torch.load(job.out / "final" / "lit_model.pth", weights_only=True)["model"]
    model.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in saved.items()})
    model.eval()
    blocks = sum(parameter.numel() for parameter in model.transformer.h.parameters())
    report(total_nats(of_logits(model), job.text, job.shape.context), blocks)


if __name__ == "__main__":
    {"train": _train, "score": _score}[sys.argv[1]](Job.read(sys.argv[2]))
