"""What is kept of runs in Redis: keys, records, and one atomic script for each transition."""
