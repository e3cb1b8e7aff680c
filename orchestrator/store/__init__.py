"""Store of runs in Redis: keys, records, and one atomic script for each transition."""
