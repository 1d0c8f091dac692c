"""Runs in folders and buckets: stores of objects, checkpoints, failures, the lease of a run's writer."""
