"""Matrix products by oneDNN where MKL, torch's choice, leaves half of the processor unused."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST = 1e6  # multiply-adds of a product that is worth another call


def mkl_is_slow() -> bool:
    """Whether MKL, torch's choice, leaves AVX-512 unused (on AMD's processors) and oneDNN is on."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return wide and is_amd() and torch.backends.mkl.is_available() and bool(onednn)


@functools.cache
def is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def fast_products(model: nn.Module, rows: int) -> contextlib.AbstractContextManager[Any]:
    """For a batch of which nothing is learnt: ``F.linear`` by oneDNN where that is twice as fast.

    Only in networks of torch's and easydl's own layers: the code of others is not watched. The last
    digits are rounded otherwise, as torch rounds them on another processor.
    """
    if rows < 32 or not mkl_is_slow():  # a single row waits for nothing
        return contextlib.nullcontext()
    parts = list(model.modules())
    sizes = [part.in_features * part.out_features for part in parts if isinstance(part, nn.Linear)]
    worth = rows * max(sizes, default=0) >= 10 * LEAST  # watching every call costs 35 µs
    known = worth and all(is_known(type(part)) for part in parts)
    return LinearByOneDNN() if known else contextlib.nullcontext()


def is_known(kind: type) -> bool:
    """Whether a layer is torch's or easydl's own; attention, watched, gives up its fast path."""
    own = kind.__module__.startswith(("torch.nn.modules.", "easydl."))
    return own and kind is not nn.MultiheadAttention


class LinearByOneDNN(TorchFunctionMode):
    """Has oneDNN compute the plain case of ``F.linear``, as every ``nn.Linear`` calls it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and is_plain(*args):
            x, weight, *bias = args
            return torch.ops.mkldnn._linear_pointwise(x, weight, *bias or [None], "none", [], "")
        return func(*args, **(kwargs or {}))


def is_plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """A large product of float32 matrices on the CPU, without gradient or autocast."""
    return (
        x.numel() * weight.shape[0] >= LEAST
        and {type(x), type(weight), type(bias)} <= {Tensor, nn.Parameter, type(None)}
        and x.dtype is weight.dtype is torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.is_contiguous()
        and weight.is_contiguous()
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
