"""A Django project, as Celery's documentation lays one out."""

from .celery import app as celery_app

__all__ = ("celery_app",)
