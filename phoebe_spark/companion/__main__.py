"""``python -m phoebe_spark.companion``: the process that the plugin starts on the driver."""

import logging
import os
import sys

from phoebe_spark.companion.main import main

try:
    code = main()
except Exception:
    logging.getLogger("phoebe").exception("the companion failed")
    code = 1
# No interpreter shutdown: a thread that reads, or loads models, would hold it up.
sys.stderr.flush()
os._exit(code)
