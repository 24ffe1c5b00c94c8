"""One dropout for a wrapped model, wherever its family keeps the probability."""

from __future__ import annotations

from typing import Any

from torch import nn

from lavra.models.wrapped.wrapped import Wrapped


def set_dropout(model: Wrapped, probability: float) -> None:
    """Set every dropout of a model, in its modules and in the configuration that is saved with it.

    Layers are never dropped whole (BART's layer drop), because what is drawn then is the shape of the step.

    Args:
        model: changed in place.
        probability: from 0 (none) to below 1.
    """
    for module in model.inner.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        _set(module, vars(module), probability)
    configuration: Any = model.inner.config
    parts = [getattr(configuration, name, None) for name in ("encoder", "decoder", "text_config")]
    for part in [configuration, *(part for part in parts if part is not None)]:
        _set(part, vars(part), probability)


def _set(owner: Any, attributes: dict[str, Any], probability: float) -> None:
    for name, value in list(attributes.items()):
        if "drop" in name and isinstance(value, float | int) and not isinstance(value, bool):
            setattr(owner, name, 0.0 if "layer" in name else probability)
