"""As many trials at a time as fit with all of their workers, so that none waits for another for ever."""

import pytest

from ganscale.config import ConfigError
from ganscale.config.sweep import SweepSettings
from ganscale.runtime.resources import Node, concurrent_trials


@pytest.mark.parametrize(
    ("settings", "nodes", "gpu", "expected"),
    [
        ({}, [Node(8)], False, 8),
        ({"workers": 2}, [Node(8)], False, 4),
        ({"workers": 3}, [Node(8)], False, 2),
        ({"workers": 2, "cpus_per_worker": 3}, [Node(8)], False, 1),
        ({"workers": 2, "cpus_per_worker": 3}, [Node(8), Node(4)], False, 1),
        ({"workers": 4}, [Node(3), Node(3), Node(3)], False, 2),
        ({"max_concurrent": 3}, [Node(8)], False, 3),
        ({"max_concurrent": 30}, [Node(8)], False, 8),
        ({}, [Node(8, 2)], True, 2),
        ({"gpus_per_worker": 0.25}, [Node(16, 1)], True, 4),
        ({"gpus_per_worker": 0.25}, [Node(3, 1)], True, 3),
        ({"gpus_per_worker": 0.3}, [Node(16, 1)], True, 3),
        ({"workers": 2}, [Node(8, 4), Node(8)], True, 2),
    ],
)
def test_what_fits(settings: dict, nodes: list[Node], gpu: bool, expected: int) -> None:
    assert concurrent_trials(SweepSettings(**settings), nodes, use_gpu=gpu) == expected


def test_what_never_fits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.workers <= 4") as caught:
        concurrent_trials(SweepSettings(workers=5), [Node(2), Node(2)], use_gpu=False)
    assert caught.value.key == "sweep.workers"
    with pytest.raises(ConfigError, match="smaller"):
        concurrent_trials(SweepSettings(cpus_per_worker=4), [Node(2), Node(2)], use_gpu=False)
