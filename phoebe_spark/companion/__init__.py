"""The companion: one process for each driver, on the other end of the plugin's pipe.

Started by the plugin as ``python -m phoebe_spark.companion``. `loop` is the work (events in, rows
and answers out) without any process around it; `desk` takes questions to a thread of its own, where
`advisor` answers them; `main` is the process: standard streams, signals, the end of input.
"""
