"""Deployment written as a user of the library would: the app, the flows and a demo.

It uses only what `orchestrator` and `orchestrator.server` export.
"""
