"""Adapters by `peft` for our decoder and for models of `transformers`, and their merging into the weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lavra.config.transforms import LOW_RANK, AdapterConfig
from lavra.core.errors import InputError
from lavra.core.seeds import derive_seed
from lavra.models.parameter_names import block_of, linear_layers, matching
from lavra.models.transforms.base import root_of
from lavra.models.transforms.quantizing import dequantize_layers, has_quantized_layers, marks

if TYPE_CHECKING:
    import peft

ADAPTER = "default"
"""Name that `peft` gives to the only adapter of a model."""

# The layers that IA³ scales (Liu et al. 2022, arXiv 2205.05638, section 3.3): the outputs of the key and value
# projections, and the input of the second matrix of the MLP. The patterns know the names of many architectures.
_SCALED = re.compile(r"(?:^|[._])(?:k|v|key|value|k_proj|v_proj|qkv|Wqkv|c_attn|query_key_value)$")
_SCALED_INPUT = re.compile(
    r"(?:^|\.)(?:mlp\.down|mlp\.c_proj|mlp\.Wo|fc2|wo|down_proj|dense_4h_to_h|fc_out)$"
    r"|(?<!attention\.)output\.dense$"
)
_NEW_HEADS = re.compile(r"^(?:classifier|score|classification_head|qa_outputs)\b")


@dataclass(frozen=True)
class Adapter:
    """Puts LoRA, rsLoRA, DoRA or IA³ into a model: its weights are frozen, and each target layer gets a few new ones.

    At first the model computes exactly the same as before, because low-rank updates begin at zero and factors at one.

    Attributes:
        config: Kind and settings of the adapter.
        seed: Seed of the low-rank matrices that begin at random.
        vocabulary: Whether the model has another vocabulary than its base, so that embedding and head are trained
            whole.
    """

    config: AdapterConfig
    seed: int = 0
    vocabulary: bool = False

    def apply(self, model: nn.Module) -> None:
        """Add the adapter, and freeze everything but it and the modules that are trained whole.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If a target or a module to train whole does not exist.
        """
        root = root_of(model)
        saved = self.modules_to_save(root)
        self._inject(root, self.targets(root))
        for name, parameter in root.named_parameters(remove_duplicate=False):
            if any(name.startswith(f"{module}.") for module in saved):
                parameter.requires_grad_(True)

    def merge(self, model: nn.Module) -> None:
        """Merge the adapter into the weights of its layers, in the precision that the layers have.

        Weights that are held in 8 or 4 bits are first brought back to full precision. Nothing is then rounded twice,
        and the merged model is the one that was trained.

        Args:
            model: Model that `apply` changed.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        root = root_of(model)
        if has_quantized_layers(root):
            self._move_to_full_precision(root)
        for name, layer in adapted_layers(root).items():
            assert isinstance(layer, BaseTunerLayer)
            layer.merge(safe_merge=True)
            _replace(root, name, layer.get_base_layer())
        _forget(root)

    def targets(self, root: nn.Module) -> list[str]:
        """Return the names of the layers to adapt.

        Args:
            root: Module whose names users know, see `root_of`.

        Raises:
            InputError: If a given name matches no linear layer, or no layer is found by default.
        """
        layers = linear_layers(root)
        inside = [name for name in layers if block_of(f"{name}.weight")]
        if self.config.targets:
            return matching(layers, self.config.targets, "linear layers")
        if self.config.kind == "ia3":
            inside = [name for name in inside if _SCALED.search(name) or _SCALED_INPUT.search(name)]
        if not inside:
            raise InputError(
                f"no layers for {self.config.kind} were found in the model's blocks",
                f"name them with adapter.targets; linear layers are {', '.join(list(layers)[:12])}",
            )
        return inside

    def modules_to_save(self, root: nn.Module) -> list[str]:
        """Return the names of the modules that are trained whole.

        Args:
            root: Module whose names users know, see `root_of`.
        """
        return find_modules_to_save(root, self.config.modules_to_save, vocabulary=self.vocabulary)

    def peft_config(self, root: nn.Module, targets: list[str]) -> peft.PeftConfig:
        """Return the configuration with which `peft` makes this adapter.

        Args:
            root: Module whose names users know, see `root_of`.
            targets: Names of the layers to adapt.
        """
        import peft
        from transformers.pytorch_utils import Conv1D

        layers = map(root.get_submodule, targets)
        transposed = any(isinstance(getattr(layer, "base_layer", layer), Conv1D) for layer in layers)
        if self.config.kind == "ia3":
            inputs = [name for name in targets if _SCALED_INPUT.search(name)]
            return peft.IA3Config(target_modules=targets, feedforward_modules=inputs, fan_in_fan_out=transposed)
        return peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.scale,  # pyright: ignore[reportArgumentType]
            lora_dropout=self.config.dropout,
            target_modules=targets,
            fan_in_fan_out=transposed,
            use_rslora=self.config.kind == "rslora",
            use_dora=self.config.kind == "dora",
        )

    def _inject(self, root: nn.Module, targets: list[str]) -> None:
        import peft

        assert self.config.kind in LOW_RANK or self.config.kind == "ia3"
        with _quiet(), torch.random.fork_rng(), marks(root):
            torch.manual_seed(derive_seed(self.seed, "adapter"))
            peft.inject_adapter_in_model(self.peft_config(root, targets), root)

    def _move_to_full_precision(self, root: nn.Module) -> None:
        """Put the same adapter over full-precision copies of its layers."""
        adapted = adapted_layers(root)
        learned = {name: layer.state_dict() for name, layer in adapted.items()}
        for name, layer in adapted.items():
            _replace(root, name, layer.get_base_layer())
        _forget(root)
        dequantize_layers(root)
        self._inject(root, list(adapted))
        for name, layer in adapted_layers(root).items():
            kept = {key: tensor for key, tensor in learned[name].items() if not key.startswith("base_layer.")}
            layer.load_state_dict(kept, strict=False)


def find_modules_to_save(root: nn.Module, patterns: Sequence[str], *, vocabulary: bool) -> list[str]:
    """Return the names of the modules that are trained whole beside an adapter, and of those that share their weights.

    Args:
        root: Module whose names users know, see `root_of`.
        patterns: Names or globs of the modules that were asked for.
        vocabulary: Whether embedding and head are among them, because they belong to another vocabulary than the base.

    Raises:
        InputError: If a pattern matches no module.
    """
    own = {name: list(module.parameters(recurse=False)) for name, module in root.named_modules()}
    names = [name for name, parameters in own.items() if name and parameters]
    found = matching(names, patterns, "modules") if patterns else []
    found += [name for name in names if _NEW_HEADS.search(name)]
    if vocabulary:
        found += vocabulary_modules(root)
    weights = {id(parameter) for name in found for parameter in root.get_submodule(name).parameters()}
    return [name for name in names if any(id(parameter) in weights for parameter in own[name])]


def vocabulary_modules(root: nn.Module) -> list[str]:
    """Return the names of the token embedding and of the head, tied or not.

    Args:
        root: Module whose names users know, see `root_of`.
    """
    embedding = getattr(root, "get_input_embeddings", lambda: getattr(root, "embedding", None))()
    head = getattr(root, "get_output_embeddings", lambda: getattr(root, "output", None))()
    return [
        name for name, module in root.named_modules() if module is not None and (module is embedding or module is head)
    ]


def adapted_layers(root: nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by the names that they had before.

    Args:
        root: Module whose names users know, see `root_of`.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in root.named_modules() if isinstance(module, BaseTunerLayer)}


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


def _forget(root: nn.Module) -> None:
    """Remove the attributes that `peft` sets on a model."""
    for note in ("peft_config", "_hf_peft_config_loaded"):
        if note in vars(root):
            delattr(root, note)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's warnings about layouts that it then corrects by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
