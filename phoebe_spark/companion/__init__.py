"""The companion: one process for each driver, at the other end of the plugin's pipe.

Started by the plugin as ``python -m phoebe_spark.companion``. `loop` does the work (events in, rows
out) without any process around it. `desk` passes questions to a separate thread, where `advisor`
answers them. `main` is the process: standard streams, signals, the end of input.
"""
