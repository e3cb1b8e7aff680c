"""One flow per file, each with its node functions; `workers.app` finds and registers them.

Importing a flow has no side effect, so that a client may use its types without being a worker.
"""
