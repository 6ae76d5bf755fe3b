"""The errors that the public helpers raise; each message says what to do.

PhoebeError
├── MissingJarError       the plugin's jar is not in the installed package
├── SparkConnectError     a JVM-only helper was given a Spark Connect session
├── NoSessionError        there is no running Spark session
└── PluginNotLoadedError  the session runs without the plugin
"""

from __future__ import annotations


class PhoebeError(RuntimeError):
    """Any error of phoebe_spark's public helpers."""


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
