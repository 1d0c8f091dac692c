"""Hyperparameter sweeps on Ray Tune, scored over several seeds."""

import ganscale.launch  # noqa: F401  (sets what Ray reads when it is imported)
