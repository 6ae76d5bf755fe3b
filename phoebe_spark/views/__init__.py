"""What people look at, made of the tables' rows alone: no Spark, no models, no events.

`explanation` joins rows to what is shown, `differences` compares two runs, `text` prints.
Arguments, exit codes and JSON are the command line's.
"""
