"""Orders."""

from django.db import models


class Order(models.Model):
    """What somebody has ordered."""

    item = models.CharField(max_length=50)
    state = models.CharField(max_length=50, default="new")

    def __str__(self) -> str:
        return str(self.item)
