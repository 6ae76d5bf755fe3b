"""A differential fuzzer: random pairs of applications, run without the plugin and with it.

A case (`cases`) is plain data: tables, settings, a query, what changes and when. `generate` and
`queries` draw cases from a seed, `worker` runs them on a real Spark, `judge` compares the runs,
`shrink` makes a case that fails smaller, `fuzz` puts these together, and `mendings` proves that
known faults are found again. docs/testing.md says how to run it and how to read a finding.
"""
