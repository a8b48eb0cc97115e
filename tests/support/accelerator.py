"""A GPU for a machine without one: PyTorch's device for backends in Python, named ``pretend``, computing on the CPU.

It gives the CPU's bits, and refuses what a GPU refuses: an operation on tensors of both devices, NumPy on a tensor that is
not on the CPU. Any test can run on it; autocast does nothing there, and random numbers on it have no state to save:

    DISTIL_DEVICE=pretend python -m pytest -p tests.support.accelerator tests/stages/test_pipeline.py
"""

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)  # indices may be on the CPU


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Generator(torch.Generator):  # timm's average of the weights makes one on their device
    def __new__(cls, device: Any = "cpu") -> "_Generator":
        return super().__new__(cls)


backend_registration._setup_privateuseone_for_python_backend("pretend", _Backend())
_library = torch.library.Library("_", "IMPL")  # what it registers lasts as long as it does
_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
torch.__future__.set_swap_module_params_on_conversion(True)  # model.to(device) makes new parameters
torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes it on the CPU, then moves it
torch.Generator = _Generator
PRETEND = torch.device("pretend", 0)


class OnGpu(torch.Tensor):
    """A tensor on the device ``pretend``; ``inner`` holds its values on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnGpu":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
        with torch.inference_mode(False):
            outer = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=PRETEND, **layout)
        outer.inner = inner
        return outer

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # saved as torch.load's map_location="cpu" would load it

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(operation, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """For operations on CPU tensors alone that give one of the device: ``torch.zeros(3, device=...)``, ``x.to(...)``."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(operation, args, kwargs or {})


def _compute(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """``operation`` on the values on the CPU; its result on the device where a GPU's would be. Raises RuntimeError for
    tensors of both devices."""
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    if operation is aten._has_compatible_shallow_copy_type.default:
        return len(there) in (0, 2)
    if operation is aten._fused_sdp_choice.default:
        return 0  # attention by plain operations
    indexed = operation in INDEXING and isinstance(args[0], OnGpu)
    if there and operation not in CROSSING and not indexed:
        here = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim() > 0]
        if here:
            raise RuntimeError(f"{operation}: expected all tensors on one device, found {here} on the CPU")
    onto = kwargs.get("device")
    if operation is aten.copy_.default:
        result_there = isinstance(args[0], OnGpu)
    else:
        result_there = bool(there) if onto is None else torch.device(onto).type == PRETEND.type
    args, kwargs = pytree.tree_map_only(OnGpu, lambda tensor: tensor.inner, (args, kwargs))
    changes = {"device": torch.device("cpu"), "pin_memory": False}
    result = operation(*args, **kwargs | {name: changes[name] for name in changes if kwargs.get(name) is not None})
    if not result_there:
        return result
    known = {id(tensor.inner): tensor for tensor in there}  # in place, or out=
    return pytree.tree_map_only(
        torch.Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else OnGpu(tensor), result
    )


_Mode().__enter__()  # for as long as the process lives
