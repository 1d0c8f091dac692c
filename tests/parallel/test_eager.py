"""Optimizers and DDP without torch._dynamo: the same numbers, and a start that imports nothing it does not need."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer, RMSprop

from ganscale.parallel import eager
from ganscale.parallel.eager import distributed_data_parallel, eager_optimizer
from tests.fleet import Fleet
from tests.processes import ROOT, free_port
from tests.runs import MLP, QUIET

HEAVY = ("torch._dynamo", "torch._inductor", "torchvision", "sympy", "matplotlib", "wandb", "scipy", "mlflow", "pandas")
"""What the first step of a run on the CPU that is not compiled needs none of."""
FIRST_STEP = f"""
import sys, ganscale.run.session as session
from ganscale.train import main
from ganscale.training.step import Step
from ganscale.parallel.collectives import broadcast_ints

build, call = session.build, Step.__call__

def after_first_step(*arguments):
    result = call(*arguments)
    broadcast_ints([0], "cpu")  # all have come as far
    print("loaded:", *set({HEAVY}) & set(sys.modules), flush=True)
    Step.__call__ = call
    return result

def built(*arguments, **options):  # the memory forecast has steps, too
    found = build(*arguments, **options)
    Step.__call__ = after_first_step
    return found

session.build = built
assert main(sys.argv[1:]) == 0
"""


def first_step(tmp_path: Path, *overrides: str, world_size: int = 1) -> list[str]:
    """What each rank's first step has loaded of `HEAVY`, as it prints it."""
    launcher = "torchrun" if world_size > 1 else "local"
    words = [*MLP, *QUIET, "train.batch_size=8", "train.images=16", "eval.every=0", f"run.dir={tmp_path}", *overrides]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_STEP, *words, f"cluster.num_workers={world_size}", "--launcher", launcher],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    ended = [each.communicate(timeout=500) for each in started]
    assert [each.returncode for each in started] == [0] * world_size, ended
    return [line for out, _ in ended for line in out.splitlines() if line.startswith("loaded:")]


def test_the_first_step_loads_nothing_heavy(tmp_path: Path) -> None:
    assert first_step(tmp_path) == ["loaded:"]


@pytest.mark.multiprocess
def test_nor_does_that_of_two_workers(tmp_path: Path) -> None:
    assert first_step(tmp_path, world_size=2) == ["loaded:"] * 2


def steps(kind: Any, options: dict[str, bool]) -> list[torch.Tensor]:
    """Parameters after seven steps, of which the last three are another optimizer's with the state of the first."""
    torch.manual_seed(7)
    network, state = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), None
    for number in (4, 3):
        optimizer = kind(network.parameters(), **options)
        if state:
            optimizer.load_state_dict(state)
        for step in range(number):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            network(torch.full((5, 3), 0.1 * step + 1.0)).square().sum().backward()
            optimizer.step()
        state = optimizer.state_dict()
    return [*network.parameters()]


@pytest.mark.parametrize(("kind", "options"), [(Adam, {"fused": True}), (RMSprop, {"foreach": True})])
def test_an_eager_optimizer_makes_the_same_steps(kind: type[Optimizer], options: dict[str, bool]) -> None:
    for ours, theirs in zip(steps(eager_optimizer(kind), options), steps(kind, options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_an_eager_optimizer_is_one_of_torchs() -> None:
    parameter, called = nn.Parameter(torch.ones(2)), []
    kind: Any = eager_optimizer(Adam)
    optimizer = kind([parameter], lr=0.1)
    assert isinstance(optimizer, Adam)
    assert type(optimizer).__name__ == "Adam"
    assert eager_optimizer(Adam) is kind
    optimizer.register_step_post_hook(lambda *_: called.append("hook"))
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert called == ["hook"]
    assert parameter.requires_grad
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(optimizer.state_dict()["param_groups"]) == 2


def gradients() -> tuple[str, list[torch.Tensor]]:
    """Class of the wrapped module, and the mean gradients of two backward passes."""
    module = nn.Linear(3, 2)
    with torch.no_grad():  # torch.manual_seed can import torch._dynamo
        for parameter in module.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    wrapped = distributed_data_parallel(module)
    found = []
    for scale in (1.0, 2.0):
        wrapped.zero_grad()
        wrapped(torch.full((2, 3), scale * (1 + torch.distributed.get_rank()))).square().sum().backward()
        found += [parameter.grad.clone() for parameter in wrapped.parameters() if parameter.grad is not None]
    return type(wrapped).__name__, found


def with_and_without_dynamo() -> list[tuple[str, list[torch.Tensor]]]:
    """In one process: before it is imported, as far as no other test has imported it, and after."""
    found = []
    hidden = sys.modules.pop(eager.DYNAMO, None)
    try:
        found.append(gradients())
    finally:
        if hidden:
            sys.modules[eager.DYNAMO] = torch._dynamo = hidden
    import_module(eager.DYNAMO)
    return [*found, gradients()]


@pytest.mark.multiprocess
def test_ddp_makes_the_same_gradients_without_dynamo(fleet: Fleet) -> None:
    for (ours, eager_gradients), (theirs, torchs) in fleet.run(with_and_without_dynamo, 2):
        assert (ours, theirs) == ("_EagerDataParallel", "DistributedDataParallel")
        for one, other in zip(eager_gradients, torchs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_private_names_of_torch_are_those_that_were_tried() -> None:
    """On a newer version: read what parallel/eager.py leaves out, then add it here."""
    assert torch.__version__.startswith(("2.11.", "2.12.", "2.13."))
    dynamo = import_module(eager.DYNAMO)
    assert dynamo.utils.get_optimize_ddp_mode() == eager._Deferred.utils.get_optimize_ddp_mode()
    assert callable(DistributedDataParallel._inside_ddp_forward)
    deferred = eager._Deferred(eager.DYNAMO)
    assert isinstance(deferred, ModuleType)
    assert deferred.graph_break is dynamo.graph_break, "what it does not have it takes from the module"
