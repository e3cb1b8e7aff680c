"""How work travels: Celery canvas, the messages that it becomes, and the broker's traps."""
