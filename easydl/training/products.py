"""Matrix products by oneDNN where MKL, torch's choice, leaves half of the processor unused."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from easydl.model import Model

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


def fast_products(model: Model, rows: int) -> contextlib.AbstractContextManager[Any]:
    """For a batch of which nothing is learnt: ``F.linear`` by oneDNN where that is twice as fast.

    Only in networks of torch's and easydl's own layers: most code of others is not watched. The
    last digits are rounded otherwise, as torch rounds them on another processor.
    """
    # A single row waits for nothing.
    if rows < 32 or model.device.type != "cpu" or not mkl_is_slow():
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
    """A large product of float32 matrices on the CPU, without gradient, autocast or transform."""
    given = [x, weight] if bias is None else [x, weight, bias]
    return (
        all(
            type(t) in (Tensor, nn.Parameter)
            and t.dtype is torch.float32
            and t.device.type == "cpu"
            and t.layout is torch.strided
            and t.is_contiguous()  # as oneDNN reads a bias, whatever its strides say
            for t in given
        )
        and weight.dim() == 2
        and x.numel() * weight.shape[0] >= LEAST
        and (bias is None or bias.shape == weight.shape[:1])
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None  # jvp would have a tangent of 0
        and forward_ad._current_level < 0
    )
