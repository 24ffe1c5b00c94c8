"""nanoGPT: `train.py` as it is, brought by hand (github.com/karpathy/nanoGPT).

It always measures its loss once before the first step and once before it saves (`eval_iters=1` makes that one
batch), and takes one step after saving, which the saved model does not hold and nobody waits for here. On a processor
it computes in fp32 whatever `--dtype` says.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import _results
from bench.peers.jobs import BETAS, CLIP, WARMUP_STEPS, WEIGHT_DECAY, Command, Job, Variant, child


class NanoGPT:
    """The adapter; `home` is the checkout."""

    name = "nanogpt"
    variants = (Variant("fp32", False), Variant("fp32", True))

    def __init__(self, home: Path) -> None:
        if not (home / "train.py").exists():
            raise FileNotFoundError(f"{home} holds no train.py: give --nanogpt the folder of a nanoGPT checkout")
        self.home = home.resolve()

    def versions(self) -> dict[str, str | None]:
        """Return the checkout's commit, and torch's version."""
        git = ["git", "-C", str(self.home), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(git, capture_output=True, text=True)
        return {"nanogpt": done.stdout.strip() or None, "torch": _results.version("torch")}

    def train(self, job: Job) -> Command:
        """Return the command, with the flags of nanoGPT's own README for small models on a processor."""
        import torch

        job.write()
        flags: dict[str, Any] = {
            "dataset": job.text.resolve(),  # joined to data/, which an absolute path replaces
            "out_dir": job.out.resolve(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "dtype": {"fp32": "float32", "bf16": "bfloat16"}[job.variant.precision],
            "compile": job.variant.compiled,
            "n_layer": job.shape.depth,
            "n_head": job.shape.heads,
            "n_embd": job.shape.width,
            "block_size": job.shape.context,
            "batch_size": job.shape.rows,
            "gradient_accumulation_steps": 1,
            "max_iters": job.steps,
            "lr_decay_iters": job.steps,
            "eval_interval": job.steps,
            "eval_iters": 1,
            "warmup_iters": min(WARMUP_STEPS, job.steps // 4),
            "learning_rate": job.learning_rate,
            "min_lr": job.learning_rate / 10,
            "weight_decay": WEIGHT_DECAY,
            "beta1": BETAS[0],
            "beta2": BETAS[1],
            "grad_clip": CLIP,
            "dropout": 0.0,
        }
        words = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in flags.items())]
        return Command(words, job.out / "ckpt.pt", r"^iter (\d+): loss", first=0, folder=self.home)

    def score(self, job: Job) -> list[str]:
        """Return the command that scores."""
        return [*child("nanogpt", "score", job), str(self.home)]


def _score(job: Job, home: str) -> None:
    import torch
    from bench.peers.scoring import of_logits, report, total_nats

    sys.path.insert(0, home)
    from model import GPT, GPTConfig  # pyright: ignore[reportMissingImports]

    saved = torch.load(job.out / "ckpt.pt", weights_only=True)
    if saved["iter_num"] != job.steps:
        raise RuntimeError(f"the model holds {saved['iter_num']} steps of {job.steps}")
    model = GPT(GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in saved["model"].items()})
    blocks = sum(parameter.numel() for parameter in model.transformer.h.parameters())
    # Given targets, it returns the logits of every position instead of the last one's.
    nats = total_nats(of_logits(lambda inputs: model(inputs, inputs)[0]), job.text, job.shape.context)
    report(nats, blocks)


if __name__ == "__main__":
    _score(Job.read(sys.argv[2]), sys.argv[3])
