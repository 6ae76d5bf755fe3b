"""``python -m phoebe_spark``, and what spark-submit runs: the command line ``phoebe``."""

from __future__ import annotations

from phoebe_spark.cli import main

if __name__ == "__main__":
    main()
