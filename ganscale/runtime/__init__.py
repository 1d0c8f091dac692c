"""Who runs the work where: Ray, torchrun, or this process alone. What Ray reads when it is imported is set here."""

import logging
import os

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how often the controller looks at its workers; 2 s wastes 4 s a run
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, workers use the cluster's environment, not one of their own
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says that tokens are on, as they should be
