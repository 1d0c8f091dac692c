"""Pictures of a folder on a GPU: the same bits as on the CPU, without host syncs, eagerly and as CUDA graphs."""

import itertools
from pathlib import Path

import pytest
import torch

from ganscale.data import FolderSource
from ganscale.training.build import build
from ganscale.training.cuda_graph import WARM_UP, GraphedStep
from tests.data.test_folder import png
from tests.runs import DCGAN, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda", 0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Fifty pictures of different colors in two classes."""
    for index in range(50):
        path = tmp_path / ("cats" if index < 20 else "dogs") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png((5 * index, 250 - 5 * index, index)))
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_cpu(pictures: Path, num_workers: int) -> None:
    """The host runs many batches ahead of the GPU, which is busy with products."""
    plain = FolderSource(pictures, 16, seed=1, device=torch.device("cpu"), mirror=True)
    source = FolderSource(pictures, 16, seed=1, device=CUDA, mirror=True, num_workers=num_workers)
    busy = torch.eye(4096, device=CUDA)
    found, expected = [], []
    for begin in (320, 0):  # as after a rollback
        source.expect(lambda begin=begin: ((start, start + 16) for start in itertools.count(begin, 16)))
        for start in range(begin, begin + 320, 16):
            busy = busy @ busy
            found.append(tuple(tensor.clone() for tensor in source.read(start, start + 16)))
            expected.append(plain.read(start, start + 16))
    on_cpu = [tuple(tensor.cpu() for tensor in batch) for batch in found]
    torch.testing.assert_close(on_cpu, expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_folder_does_not_wait_for_the_gpu(pictures: Path, num_workers: int, graphs: bool) -> None:
    data = ("data.name=folder", f"data.path={pictures}", f"data.num_workers={num_workers}", "data.mirror=true")
    classes = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
    experiment = build(tiny(*DCGAN, *data, *classes, f"train.cuda_graphs={str(graphs).lower()}"), device=CUDA)
    every = experiment.sampler.images_per_iteration
    for number in range(2 * WARM_UP + 4):
        torch.cuda.set_sync_debug_mode("error" if number > WARM_UP else "default")
        try:
            batches = experiment.sampler.batches(number * every)
            experiment.iterate(batches, experiment.schedule.controls(number * every))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    if isinstance(experiment.iterate, GraphedStep):
        assert experiment.iterate._works
