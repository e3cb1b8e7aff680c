"""What keeps runs going: a worker's boot step, the reconciler, and the checks at start."""
