"""Export of an adapter as a folder that `peft.PeftModel.from_pretrained` opens together with the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.parameter_names import is_adapter
from lavra.models.transforms.adapters import Adapter, adapted_layers
from lavra.models.transforms.base import root_of
from lavra.models.transforms.prefix import Prefix, PrefixMemory

_PREFIX = "base_model.model."
"""Prefix that `peft` puts before the names of tensors."""

_TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
"""Name that `peft` gives to the task of each kind of model."""


def save_adapter(folder: Path, model: nn.Module, adapter: Adapter | Prefix, base: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        folder: Folder to write into, which is made where it does not exist. The caller takes care of atomicity.
        model: Model of `transformers` with the adapter in it.
        adapter: Adapter as it was applied.
        base: Hugging Face folder or hub name of the base model.

    Raises:
        InputError: If the model is not one of `transformers`, it has another vocabulary than its base, or it has a
            prefix that `peft` would place elsewhere.
    """
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
    config, tensors = _prefix(model) if isinstance(adapter, Prefix) else _layers(root, adapter)
    config.task_type = _TASKS.get(getattr(model, "kind", ""))
    config.base_model_name_or_path = base
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    written = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(written, folder / "adapter_model.safetensors")


def _layers(root: nn.Module, adapter: Adapter) -> tuple[Any, dict[str, torch.Tensor]]:
    from peft import get_peft_model_state_dict

    saved = adapter.modules_to_save(root)
    tensors = get_peft_model_state_dict(root, save_embedding_layers=False)
    for name in saved:
        tensors |= {f"{name}.{key}": tensor for key, tensor in root.get_submodule(name).state_dict().items()}
    config: Any = adapter.peft_config(root, list(adapted_layers(root)))
    config.modules_to_save = saved or None
    return config, {_PREFIX + name: tensor for name, tensor in tensors.items()}


def _prefix(model: nn.Module) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the configuration of prefix tuning, and the keys and values of all blocks as one row per position."""
    from peft import PrefixTuningConfig

    memories = [module for module in model.modules() if isinstance(module, PrefixMemory)]
    heads, length, size = memories[0].keys.shape
    whole = any(parameter.requires_grad for name, parameter in model.named_parameters() if not is_adapter(name))
    if getattr(model, "kind", "") != "decoder" or whole:
        raise InputError(
            "peft opens prefixes of decoders only, and no modules trained whole beside them",
            "use the run itself, or train another adapter: --adapter.kind lora",
        )
    config = PrefixTuningConfig(
        num_virtual_tokens=length,
        token_dim=heads * size,
        num_transformer_submodules=1,
        num_attention_heads=heads,
        num_layers=len(memories),
        encoder_hidden_size=heads * size,
    )
    layers = [tensor.transpose(0, 1) for memory in memories for tensor in (memory.keys, memory.values)]
    return config, {"prompt_embeddings": torch.stack(layers, 1).reshape(length, -1)}
