"""Priority of the runs in the outbox."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Add the column."""

    dependencies: ClassVar[list[tuple[str, str]]] = [("orchestrator_outbox", "0001_initial")]
    operations: ClassVar = [migrations.AddField("Entry", "priority", models.SmallIntegerField(null=True))]
