"""Runs on a Ray cluster, under torchrun or in this process; Ray is imported here and in `sweep` only."""
