"""phoebe_spark: a learned checkpoint optimizer for Apache Spark.

The public names are those below; importing them starts nothing, needs no environment variable, and
loads neither PySpark nor LightGBM.
"""

from phoebe_spark.errors import (
    MissingJarError,
    NoSessionError,
    PhoebeError,
    PluginNotLoadedError,
    SettingError,
    SparkConnectError,
)
from phoebe_spark.jar import jar_path
from phoebe_spark.session import configure, status

__version__ = "0.1.0"

__all__ = [
    "MissingJarError",
    "NoSessionError",
    "PhoebeError",
    "PluginNotLoadedError",
    "SettingError",
    "SparkConnectError",
    "__version__",
    "configure",
    "jar_path",
    "status",
]
