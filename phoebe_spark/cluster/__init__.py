"""A cluster that runs stages: when each starts and ends."""
