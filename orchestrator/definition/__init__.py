"""Definition of flows: nodes, steps, the checks of `build()`, and the plan that a run follows."""
