"""Maintenance of runs: the worker's boot step, the reconciler, and the checks at start."""
