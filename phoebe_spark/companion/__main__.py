"""``python -m phoebe_spark.companion``: what the plugin starts on the driver."""

import sys

from phoebe_spark.companion.main import main

sys.exit(main())
