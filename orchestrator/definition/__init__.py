"""What is to be done: nodes, flows, the checks of `build()`, and the plan that a run follows."""
