"""The checkpoint store as people see it, and what two runs' fingerprints differ by."""
