"""A GPU made of the CPU: tensors with real values that say they are on `cuda:0` and refuse what a GPU refuses.

`FakeTensorMode` knows no values, so that whatever asks for one ends there, and on a build of torch without CUDA it has
no backward pass on "cuda". Here every tensor of the device wraps a CPU tensor that holds its values: all of the code
runs as it is, data-dependent ways included, and gives the numbers of the CPU. Underneath, torch is told `meta`, the one
device without a library of its own that autograd knows; Python code sees `cuda:0` only.

Raised on, as by CUDA: tensors of both devices in one operation (a CPU scalar is allowed in elementwise operations, CPU
indices only in `x[...]`), a generator of the other device, and `numpy()` of a tensor of the GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import __future__ as future
from torch.overrides import TorchFunctionMode
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

GPU = torch.device("cuda", 0)
_BENEATH = torch.device("meta", 0)
_CPU = torch.device("cpu")
_SET_DATA = torch.Tensor.data.__set__  # pyright: ignore[reportAttributeAccessIssue]


class OnGPU(torch.Tensor):
    """A tensor of the fake GPU; `values` is the CPU tensor that holds what it holds."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=_BENEATH,
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return GPU

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True

    @property
    def is_meta(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return False

    @property
    def data(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.detach()

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        if isinstance(new, OnGPU):
            _SET_DATA(self, new)
            self.values = new.values
        else:
            _become(self, new)

    def data_ptr(self) -> int:  # what tells tensors that share their memory
        return self.values.data_ptr()

    def untyped_storage(self) -> Any:
        return self.values.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        new = OnGPU(self.values.clone())
        if isinstance(self, torch.nn.Parameter):
            new = torch.nn.Parameter(new)
        new.requires_grad_(self.requires_grad)
        new.__dict__ |= {key: copy.deepcopy(value, memo) for key, value in vars(self).items() if key != "values"}
        memo[id(self)] = new
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a tensor of the GPU is not pickled")

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"OnGPU({self.values!r})"


def _become(tensor: torch.Tensor, new: torch.Tensor) -> None:
    """Let a tensor, often a parameter, be one of the other device: what setting its `data` does."""
    wanted = tensor.requires_grad
    made = torch.nn.Parameter(new, wanted) if isinstance(tensor, torch.nn.Parameter) else new.detach()
    torch.utils.swap_tensors(tensor, made)


class Generator(torch.Generator):
    """A generator, of the GPU if it is told so."""

    _place = _CPU

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made._place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._place


_COPIES = {"copy_", "_to_copy", "_copy_from", "set_"}
"""Operations that take tensors from one device to another."""

_SCALARS = ("where", "masked_fill", "index_put", "fill_", "_foreach", "_fused", "lerp", "clamp")
"""Operations beyond the elementwise ones that take a scalar on the CPU."""

_INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")
"""What `x[...]` and `x[...] = y` do: their indices may be on the CPU."""


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from _tensors(branch)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _refuse_mixing(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise where an operation is given tensors of both devices and a GPU would not take them."""
    if name in _COPIES:
        return
    checked = (args[0], *args[2:]) if name in _INDEXING and args and isinstance(args[0], OnGPU) else args
    given = list(_tensors([list(checked), kwargs]))
    scalar = torch.Tag.pointwise in func.tags or name.startswith(_SCALARS)
    cpu = [tensor for tensor in given if not isinstance(tensor, OnGPU) and (tensor.dim() or not scalar)]
    if cpu and len(cpu) < len(given) and any(isinstance(tensor, OnGPU) for tensor in given):
        shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in given)
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices in {func}: {shapes}"
        )


def _refuse_generator(values: list[Any], result: Any) -> None:
    """Raise where a random result is on another device than the generator that it is drawn with."""
    for value in values:
        if isinstance(value, torch.Generator) and isinstance(result, torch.Tensor) and result.device != value.device:
            raise RuntimeError(
                f"Expected a '{result.device.type}' device type for generator but found '{value.device.type}'"
            )


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and return tensors of the device that it would have made them on."""
    name = func.overloadpacket.__name__
    _refuse_mixing(func, name, args, kwargs)
    given = list(_tensors([list(args), kwargs]))
    gpu = any(isinstance(tensor, OnGPU) for tensor in given)
    if name == "copy_":
        gpu = isinstance(args[0], OnGPU)
    asked = kwargs.get("device")
    if asked is not None:
        gpu = torch.device(asked) == _BENEATH
        kwargs = {**kwargs, "device": _CPU} if gpu else kwargs
    kwargs.pop("pin_memory", None)
    known = {id(tensor.values): tensor for tensor in given if isinstance(tensor, OnGPU)}
    result = func(*_values(args), **_values(kwargs))
    for tensor in known.values():
        if tensor.shape != tensor.values.shape:
            raise NotImplementedError(f"{func} changes the shape of a tensor in its place")
    if not gpu:
        return result
    return tree_map(lambda value: known[id(value)] if id(value) in known else _wrap(value), result)


def _values(tree: Any) -> Any:
    return tree_map(lambda value: value.values if isinstance(value, OnGPU) else value, tree)


def _wrap(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGPU) else value


class _Operations(TorchDispatchMode):
    """Sees every operation, those that autograd adds and those without a tensor among their arguments included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


_READ_BY_TORCH = ("tensor", "as_tensor", "asarray")
"""Functions whose values torch reads by itself, out of sight of the operations."""


def _beneath(value: Any) -> Any:
    """Return what torch is told instead of the GPU."""
    if isinstance(value, torch.device):
        return _BENEATH if value.type == "cuda" else value
    return _BENEATH if isinstance(value, str) and value.split(":")[0] == "cuda" else value


class _Calls(TorchFunctionMode):
    """Sees every call of torch from Python: devices are named there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.device:
            return func(*args, **kwargs)
        if name == "cuda":
            return args[0].to(_BENEATH)
        if func == _SET_DATA and isinstance(args[1], OnGPU) and not isinstance(args[0], OnGPU):
            return _become(args[0], args[1])
        if name == "tolist" and isinstance(args[0], OnGPU):  # refused to subclasses
            return args[0].values.tolist()
        if name in _READ_BY_TORCH and "device" in kwargs:
            device = kwargs.pop("device")
            made = func(*args, **kwargs)
            return made if device is None else made.to(_beneath(device))
        args = tuple(_beneath(value) for value in args)
        result = func(*args, **{key: _beneath(value) for key, value in kwargs.items()})
        _refuse_generator([*args, *kwargs.values()], result)
        return result


def _library() -> dict[str, Callable[..., Any]]:
    """Return what `torch.cuda` says of the device."""
    gib = 1 << 30
    properties = SimpleNamespace(name="a fake GPU", total_memory=8 * gib, major=8, minor=0, multi_processor_count=8)
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: properties.name,
        "get_device_capability": lambda *_: (8, 0),
        "max_memory_allocated": lambda *_: gib,
        "memory_allocated": lambda *_: gib,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
    }


@contextmanager
def fake_gpu(*, library: bool = False) -> Iterator[torch.device]:
    """Let `cuda:0` be there within the block, and yield it.

    Args:
        library: let `torch.cuda` say so too, as whole commands ask; else it says that there is no GPU.
    """
    insert: Callable[..., Any] = _device.DeviceContext.__torch_function__

    def default_device(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The mode of a default device comes after all other modes: it has to name what torch is told.
        self.device = _beneath(self.device)
        if getattr(func, "__name__", "") in _READ_BY_TORCH:
            place = (kwargs or {}).get("device", self.device)
            return func(*args, **{**(kwargs or {}), "device": None}).to(place)
        return insert(self, func, types, args, kwargs)

    with ExitStack() as stack:
        for target, attribute, value in (
            (torch, "Generator", Generator),
            (_device.DeviceContext, "__torch_function__", default_device),
            (torch.Tensor, "pin_memory", lambda tensor, *_: tensor),
            (torch.cuda, "synchronize", lambda *_: None),
            (torch.cuda, "mem_get_info", lambda *_: (6 << 30, 8 << 30)),
            (torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()),
            (torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state)),
        ):
            stack.enter_context(mock.patch.object(target, attribute, value))
        for attribute, value in _library().items() if library else ():
            stack.enter_context(mock.patch.object(torch.cuda, attribute, value))
        # A parameter stays the object that it was when its module is moved, and weights that are tied stay so.
        stack.callback(future.set_swap_module_params_on_conversion, future.get_swap_module_params_on_conversion())
        future.set_swap_module_params_on_conversion(True)
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        yield GPU
