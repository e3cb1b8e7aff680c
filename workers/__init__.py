"""The workers of this deployment: the app that they load, the flows that they run, and a demo that shows both.

Written as a user of the library would write it: of the engine only what `orchestrator` and `orchestrator.server`
export is used.
"""
