"""Hyperparameter sweeps on Ray Tune, judged over several seeds."""
