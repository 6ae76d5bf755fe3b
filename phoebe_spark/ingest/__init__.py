"""Event logs and spool files: found, read, harvested into the tables."""
