"""Execution of nodes: claim, call, commit, and what follows in the same message."""
