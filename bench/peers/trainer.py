"""Hugging Face `Trainer` with a GPT-2 configuration: blocks as run_clm.py makes them, AdamW, cosine with warm-up.

Best flags: no dropout, fused AdamW, no logging, saving or evaluation inside the run; bf16 and `torch_compile` as the
variant says.
"""

from __future__ import annotations

import sys
from typing import Any

from bench import _results
from bench.peers.jobs import BETAS, CLIP, EVERY_VARIANT, WARMUP_STEPS, WEIGHT_DECAY, Command, Job, child


class HuggingFaceTrainer:
    """The adapter."""

    name = "trainer"
    variants = EVERY_VARIANT

    def versions(self) -> dict[str, str | None]:
        """Return the versions of the two libraries."""
        return {name: _results.version(name) for name in ("transformers", "torch")}

    def train(self, job: Job) -> Command:
        """Return the command."""
        return Command(child("trainer", "train", job), job.out / "model" / "model.safetensors", r"^step (\d+)$")

    def score(self, job: Job) -> list[str]:
        """Return the command that scores."""
        return child("trainer", "score", job)


def _train(job: Job) -> None:
    import torch
    from bench.peers.blocks import Blocks
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

    class Say(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            print(f"step {state.global_step}", flush=True)

    def together(blocks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        ids = torch.stack(blocks)
        return {"input_ids": ids, "labels": ids}

    set_seed(job.seed)
    shape = job.shape
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.depth,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    arguments = TrainingArguments(
        output_dir=str(job.out / "trainer"),
        max_steps=job.steps,
        per_device_train_batch_size=shape.rows,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=min(WARMUP_STEPS, job.steps // 4),
        weight_decay=WEIGHT_DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        bf16=job.variant.precision == "bf16",
        torch_compile=job.variant.compiled,
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_drop_last=True,
        remove_unused_columns=False,
        seed=job.seed,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=Blocks(job.text / "train.bin", shape.context, shape.context),
        data_collator=together,
        callbacks=[Say()],
    )
    trainer.train()
    trainer.save_model(str(job.out / "model"))


def _score(job: Job) -> None:
    from bench.peers.scoring import of_logits, report, total_nats
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(job.out / "model").eval()
    blocks = sum(parameter.numel() for parameter in model.transformer.h.parameters())
    nats = total_nats(of_logits(lambda inputs: model(inputs).logits), job.text, job.shape.context)
    report(nats, blocks)


if __name__ == "__main__":
    {"train": _train, "score": _score}[sys.argv[1]](Job.read(sys.argv[2]))
