"""An app whose settings do not suit its flow."""

from __future__ import annotations

from tests.programs.network import app

app.conf.accept_content = ["json", "pickle"]
