"""Messaging: Celery canvas, the messages it becomes, and patches of Celery and kombu."""
