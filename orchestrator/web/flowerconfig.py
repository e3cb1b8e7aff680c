"""Configuration of a Flower that has none of its own: the Flows tab, for `orchestrator dev` and the demo."""

from orchestrator.web import install

install()
