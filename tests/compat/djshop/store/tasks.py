"""A task that the app has had."""

from celery import shared_task

from .models import Order


@shared_task
def mark(order_id: int) -> str:
    Order.objects.filter(pk=order_id).update(state="marked")
    return "marked"
