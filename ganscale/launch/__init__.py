"""Starts runs on a Ray cluster, under torchrun or in this process; sets here what Ray reads when it is imported."""

import logging
import os

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller polls its workers; the default of 2 s wastes 4 s a run
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the driver watches for draining nodes itself
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, workers use the cluster's environment, not one of their own
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # logs that tokens are on, as intended
