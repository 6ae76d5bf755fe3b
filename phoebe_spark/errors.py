"""All errors of phoebe_spark and phoebe_training; each message says what to do.

PhoebeError
├── MissingJarError       the plugin's jar is not in the installed package
├── SparkConnectError     a JVM-only helper was given a Spark Connect session
├── NoSessionError        there is no running Spark session
├── PluginNotLoadedError  the session runs without the plugin
├── NewerTablesError      the tables are of a newer phoebe_spark
├── ForeignTableError     a table of that name is there, and is not ours
├── ForeignFileError      a file is where one of ours would be, and is not ours
├── StoreUnreachableError the ``deltalake`` package cannot write to the home's store
├── OtherWriterError      another kind of writer has the home's tables
├── CheckpointStoreError  the checkpoint store cannot be looked at
├── SettingError          a setting does not exist, or does not accept its value
├── UnreadableLogError    a file is no event log or spool, or is damaged from its start
├── CutOffError           a compressed stream breaks in the middle of a block
├── RemoteLogError        a store's event logs cannot be listed or read
├── BundleError           the promoted models cannot be used
│   ├── BundleMissing     nothing was promoted under this home yet
│   ├── BundleDamaged     a file is missing, truncated, or its sha256 differs
│   ├── BundleFormat      written in a format, or for plan features, that this version does not know
│   └── BundleRemote      the home is not a directory of this machine
└── TrainingError         (phoebe_training.errors) nothing was trained
    └── NotEnoughData     the tables hold too few complete runs
"""

from __future__ import annotations


class PhoebeError(RuntimeError):
    """Any error of ours."""


class MissingJarError(PhoebeError):
    """The plugin's jar is not in the installed package."""


class SparkConnectError(PhoebeError):
    """A helper that needs the driver's JVM was given a Spark Connect session."""


class NoSessionError(PhoebeError):
    """There is no running Spark session."""


class PluginNotLoadedError(PhoebeError):
    """The session runs without the plugin, and it is too late to add it."""


class NewerTablesError(PhoebeError):
    """The tables were written by a newer phoebe_spark, in a form that this one does not know."""


class ForeignTableError(PhoebeError):
    """There is a Delta table where one of ours would be, and it is somebody else's."""


class ForeignFileError(PhoebeError):
    """There is a file in the home where one of ours would be, and it is somebody else's."""


class StoreUnreachableError(PhoebeError):
    """The ``deltalake`` package cannot write to the home's store; Hadoop may be able to."""


class OtherWriterError(PhoebeError):
    """The tables of a home on S3 belong to another kind of writer."""


class CheckpointStoreError(PhoebeError):
    """The checkpoint store cannot be looked at; the message has the store's own words."""


class SettingError(PhoebeError, ValueError):
    """A value that a setting does not accept; the message names both and says what is accepted."""


class UnreadableLogError(PhoebeError):
    """A file that is no event log or spool, that is damaged from its start, or that claims sizes
    that none of its writers uses."""


class CutOffError(PhoebeError):
    """A compressed stream that ends or breaks in the middle of a block."""


class RemoteLogError(OSError, PhoebeError):
    """A URI that cannot be listed, or logs that a task could not read; the message is the store's
    or the task's line that says why."""


class BundleError(PhoebeError):
    """The bundle cannot be used; its message is one line for the driver's log."""


class BundleMissing(BundleError):  # noqa: N818 - named for what is the matter
    """Nothing was promoted under this home yet: run ``phoebe train``."""


class BundleDamaged(BundleError):  # noqa: N818
    """A file of the bundle is missing, or is not what was written."""


class BundleFormat(BundleError):  # noqa: N818
    """The bundle's format, or what its models were trained on, is unknown to this version."""


class BundleRemote(BundleError, ValueError):  # noqa: N818
    """The home is a URI: models are trained and loaded under a local directory only."""
