"""An adapter as the folder that `peft.PeftModel.from_pretrained` opens over the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.edits.adapters import Adapter, adapted_layers
from lavra.models.edits.base import root_of

_PREFIX = "base_model.model."
_TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}


def save_adapter(folder: Path, model: nn.Module, adapter: Adapter, base: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        folder: made if it is not there; written by the caller's rules of atomicity.
        model: a wrapped `transformers` model with the adapter in it.
        adapter: as it was applied.
        base: the Hugging Face folder or hub name that the model was read from.

    Raises:
        InputError: if the model is not one of `transformers`, or has another vocabulary than its base.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import PreTrainedModel

    root = root_of(model)
    if not isinstance(root, PreTrainedModel):
        raise InputError("peft knows nothing of lavra's own decoder", "export the folded model: --format hf")
    if adapter.vocabulary:
        raise InputError(
            "an adapter with another vocabulary than its base cannot be opened by peft",
            "export the folded model: --format hf",
        )
    saved = adapter.saved(root)
    tensors = get_peft_model_state_dict(root, save_embedding_layers=False)
    for name in saved:
        tensors |= {f"{name}.{key}": tensor for key, tensor in root.get_submodule(name).state_dict().items()}
    config: Any = adapter.peft_config(root, list(adapted_layers(root)))
    config.modules_to_save = saved or None
    config.task_type = _TASKS.get(getattr(model, "kind", ""))
    config.base_model_name_or_path = base
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(
        {_PREFIX + name: _written(tensor) for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


def _written(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone().contiguous()
