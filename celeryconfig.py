"""Celery's settings for `celery -A workers.app`: what the engine needs of its broker, with the reason beside each line.

Retries, rate limits, time limits and recovery are the engine's and not set here, and late acknowledgement is set by the
nodes' own task class. Anything left out is Celery's default.
"""

import os

# Broker and chord counts share the server of the flows' state: they roll back together at a power loss.
broker_url = os.environ.get("ORCHESTRATOR_REDIS_URL", "redis://127.0.0.1:6379/0")
# Celery has no chord without a result backend; the engine would then send single messages and join them itself.
result_backend = broker_url

# Nothing else is read: a pickle in a queue would be code that anybody who reaches the server may run.
accept_content = ["json"]
# Messages carry names and ids, which JSON holds.
task_serializer = "json"
# As the messages; the backend holds chord counts only.
result_serializer = "json"

# Outputs are stored in the flows' state. A result would be five more commands per task, and a child killed between its
# result and its chord count would hang the chord. A task of your own that needs one says `ignore_result=False`.
task_ignore_result = True
# Such a result goes away by itself.
result_expires = 3600
# A chord whose run ended early leaves its counts behind; renewed with each part, and longer than any node takes.
result_chord_expires = 3600
# Error callbacks are put on each node's signature; copied to chord headers by Celery they would fire twice. Off is the
# default, but one that Celery means to change.
task_allow_error_cb_on_chord_header = False

broker_transport_options = {
    # Longer than the longest node, as Redis delivers an unacknowledged message again after it whether or not the node
    # still runs. Lost messages are found by the engine within seconds and do not wait for this.
    "visibility_timeout": 6 * 3600,
    # A worker killed while it restores messages holds this lock: 15 s instead of 5 min without any restoring.
    "unacked_mutex_expire": 15,
    # A server that vanished without closing the connection raises instead of hanging; above the 1 s of a blocking pop,
    # and short, as a worker may have to wait for two connections in a row.
    "socket_timeout": 3,
    # As above, for a server that does not even answer the connection.
    "socket_connect_timeout": 5,
    # A consumer on a half-open connection recovers after 1 s + 2 x this; Celery's default makes it deaf for 51 s.
    "health_check_interval": 5,
}
# As the broker's socket_timeout; Celery would let a node that counts itself in a chord wait 120 s.
redis_socket_timeout = 3
# As the broker's socket_connect_timeout.
redis_socket_connect_timeout = 5

# A worker may come up before its server does, as in a compose file.
broker_connection_retry_on_startup = True
# None is for ever: after 100 tries (some minutes) a worker would give up and need somebody to start it.
broker_connection_max_retries = None

# A message that a busy process has fetched ahead cannot be run by an idle one.
worker_prefetch_multiplier = 1
# QUIT leaves running tasks as long as TERM leaves the engine's nodes, see Settings.shutdown_grace.
worker_soft_shutdown_timeout = 25.0
# The state says who runs what, so that a reconnect need not kill running nodes. Off is the default, but one that Celery
# means to change.
worker_cancel_long_running_tasks_on_connection_loss = False

# In memory: the default scheduler writes a file into the working directory. What fired last is in the flows' state.
beat_scheduler = "celery.beat:Scheduler"
# Cron expressions carry a time zone of their own; this one is for an application's own entries.
timezone = "UTC"
