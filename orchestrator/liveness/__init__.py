"""Liveness: pool processes, their leases, and time limits of functions."""
