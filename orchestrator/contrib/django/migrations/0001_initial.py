"""Table of the outbox."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Make the table."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Entry",
            fields=[
                ("run_id", models.CharField(max_length=36, primary_key=True, serialize=False)),
                ("flow", models.CharField(max_length=100)),
                ("input", models.TextField(blank=True)),
                ("idempotency_key", models.TextField(null=True)),
                ("tags", models.TextField(default="{}")),
                ("created_at", models.DateTimeField(auto_now_add=True, db_index=True)),
                ("error", models.TextField(blank=True, default="")),
            ],
            options={"db_table": "orchestrator_outbox", "verbose_name_plural": "entries", "ordering": ["created_at"]},
        ),
    ]
