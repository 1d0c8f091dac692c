"""torch's optimizers and DDP without torch._dynamo.

Both import it when they are first used, to be left out of what `torch.compile` traces: two seconds of processor time,
also for a process that compiles nothing. Nothing traces them here: only networks are compiled, which contain neither.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

DYNAMO = "torch._dynamo"
WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of `Optimizer` that import it, beside `step`."""


@lru_cache
def eager_optimizer(kind: type[Optimizer]) -> type[Optimizer]:
    """A class of torch.optim without torch._dynamo: the same methods without what wraps them.

    Args:
        kind: the class; not for `differentiable=True`.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods | {"step": step, "__doc__": kind.__doc__})


class _EagerDataParallel(DistributedDataParallel):
    """DDP without torch._dynamo."""

    _inside_ddp_forward = contextmanager(inspect.unwrap(DistributedDataParallel._inside_ddp_forward))

    def __init__(self, module: nn.Module, **options: Any) -> None:
        with _deferred_dynamo():
            super().__init__(module, **options)


def distributed_data_parallel(module: nn.Module, **options: Any) -> DistributedDataParallel:
    """Wrap a module in DDP; without importing torch._dynamo, unless it is there already.

    Args:
        module: whose forward makes the gradients.
        options: of `DistributedDataParallel`.
    """
    kind = DistributedDataParallel if DYNAMO in sys.modules else _EagerDataParallel
    return kind(module, **options)


class _Deferred(ModuleType):
    """Stands for torch._dynamo where DDP asks it for one setting; anything else imports it."""

    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")  # the default

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(DYNAMO), name)


@contextmanager
def _deferred_dynamo() -> Iterator[None]:
    """Let the attribute `torch._dynamo`, not its import, be a stand-in during the block."""
    deferred = _Deferred(DYNAMO)
    torch._dynamo = deferred
    try:
        yield
    finally:
        if torch._dynamo is deferred:
            del torch._dynamo
