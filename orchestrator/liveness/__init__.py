"""Who is alive: pool processes, their leases, and the time that a function may take."""
