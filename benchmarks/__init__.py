"""Measurements beside raw Celery canvas: `make bench`."""
