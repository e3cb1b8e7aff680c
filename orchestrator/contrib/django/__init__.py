"""Start flows from Django's transactions, and close the connections of its asynchronous code between nodes.

As an entry of `INSTALLED_APPS` it is a transactional outbox too: what `start_on_commit` starts is a row of the same
transaction until the run exists.
"""

from orchestrator.contrib.django.starts import start_on_commit

__all__ = ["start_on_commit"]
