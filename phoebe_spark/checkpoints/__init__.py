"""The checkpoint store as people see it."""
