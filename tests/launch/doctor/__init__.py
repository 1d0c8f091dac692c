"""Tests of the cluster check."""
