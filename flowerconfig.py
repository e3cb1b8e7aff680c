"""Configuration that `celery -A workers.app flower` reads in this folder: the Flows tab."""

from orchestrator.web import install

install()
