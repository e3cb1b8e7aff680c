"""How a node runs: claim, call, commit, and what follows in the same message."""
