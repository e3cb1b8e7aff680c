"""Table of the outbox."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Entry(models.Model):
    """A run that is to be started; deleted when it was.

    Attributes:
        run_id: The run's id.
        flow: Name of the flow.
        input: JSON of the run's input; empty if there is none.
        idempotency_key: As of `Orchestrator.start`.
        tags: JSON of the run's tags.
        priority: As of `Orchestrator.start`.
        created_at: When it was written.
        error: Why it will never be started; else empty.
    """

    run_id = models.CharField(max_length=36, primary_key=True)
    flow = models.CharField(max_length=100)
    input = models.TextField(blank=True)
    idempotency_key = models.TextField(null=True)  # noqa: DJ001 - an empty key is a key
    tags = models.TextField(default="{}")
    priority = models.SmallIntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    error = models.TextField(blank=True, default="")

    class Meta:
        """Names."""

        db_table = "orchestrator_outbox"
        verbose_name_plural = "entries"
        ordering: ClassVar = ["created_at"]

    def __str__(self) -> str:
        return f"{self.flow} {self.run_id}"
