"""Helpers for Python users: `configure` a session builder, ask a session for the plugin's `status`.

PySpark is imported when a helper is called, never when this module is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phoebe_spark.errors import (
    NoSessionError,
    PluginNotLoadedError,
    SettingError,
    SparkConnectError,
)
from phoebe_spark.jar import jar_path
from phoebe_spark.settings import BY_NAME
from phoebe_spark.spark_env import spark_defaults

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PLUGIN = "phoebe.PhoebePlugin"
_RUNTIME = "phoebe.plugin.PhoebeRuntime"


def configure(
    builder: SparkSession.Builder,
    *,
    home: str | os.PathLike[str] | None = None,
    mode: str | None = None,
    extra_packages: Sequence[str] = (),
    **settings: str | int | float,
) -> SparkSession.Builder:
    """Adds the plugin to a session builder and returns it.

    >>> builder = SparkSession.builder.appName("daily")
    >>> spark = phoebe_spark.configure(builder, home="/data/phoebe", mode="observe").getOrCreate()

    ``spark.plugins``, ``spark.jars`` and (for ``extra_packages``, Maven coordinates)
    ``spark.jars.packages`` are appended to, never overwritten. Other settings are keyword
    arguments with ``_`` for ``.``: ``advice_timeout_ms=200``. The companion runs under this very
    Python unless ``python`` says otherwise.

    Raises `MissingJarError`, `SparkConnectError` (the plugin belongs to the server's configuration
    there), `PluginNotLoadedError` (a Spark application without the plugin already runs in this
    process) and `SettingError` (a setting that does not exist, or does not accept its value).
    """
    from pyspark.sql import SparkSession

    if not isinstance(builder, SparkSession.Builder):
        raise TypeError(
            f"configure takes a SparkSession.Builder (SparkSession.builder...), got "
            f"{type(builder).__name__}; call it before getOrCreate()"
        )
    options: dict[str, Any] = dict(getattr(builder, "_options", {}))
    _refuse_connect(options)
    jar = jar_path()
    present = _present_conf()
    _refuse_running_without(present)

    def append(key: str, values: Sequence[str]) -> None:
        old = str(options.get(key, present.get(key, "")))
        parts = [p.strip() for p in old.split(",") if p.strip()]
        builder.config(key, ",".join(parts + [v for v in values if v not in parts]))

    given: dict[str, str] = {"python": sys.executable, **{k: str(v) for k, v in settings.items()}}
    if home is not None:
        given["home"] = os.fspath(home)
    if mode is not None:
        given["mode"] = mode
    names = {name.replace(".", "_"): name for name in BY_NAME}
    for word, text in given.items():
        name = names.get(word.replace(".", "_"))
        if name is None:
            raise SettingError(f"{word} is not a setting; there are: {', '.join(sorted(names))}")
        setting = BY_NAME[name]
        builder.config(setting.key, str(setting.parse(text)))
    append("spark.plugins", [PLUGIN])
    append("spark.jars", [jar])
    if extra_packages:
        append("spark.jars.packages", extra_packages)
    return builder


def status(spark: SparkSession | None = None) -> dict[str, Any]:
    """What the plugin of a running session is doing: mode, companion, counts, loaded model.

    Raises `NoSessionError`, `SparkConnectError`, or `PluginNotLoadedError`.
    """
    jvm = _jvm(spark)
    if not jvm.org.apache.spark.util.Utils.classIsLoadable(_RUNTIME):
        raise PluginNotLoadedError(
            "this session runs without phoebe_spark's jar: start it with "
            "phoebe_spark.configure(builder), or spark-submit --jars $(phoebe jar) "
            f"--conf spark.plugins={PLUGIN}"
        )
    text = getattr(jvm, _RUNTIME).statusJson()
    if not text:
        raise PluginNotLoadedError(
            f"the jar is there but the plugin does not run: set spark.plugins={PLUGIN}, and look "
            "for a line with 'phoebe:' in the driver's log"
        )
    found: dict[str, Any] = json.loads(text)
    return found


def _jvm(spark: SparkSession | None) -> Any:
    """The driver's JVM, or an error that says which of three things is wrong."""
    from pyspark.sql import SparkSession

    session = spark if spark is not None else SparkSession.getActiveSession()
    if session is None:
        raise NoSessionError("no Spark session is running: make one with getOrCreate() first")
    if "connect" in type(session).__module__.split("."):
        raise SparkConnectError(
            "this is a Spark Connect session: it has no JVM of its own, and the plugin runs in "
            "the server; ask there, or read the tables under the server's spark.phoebe.home"
        )
    if session.sparkContext._jsc is None:
        raise NoSessionError("this Spark session was stopped: make another with getOrCreate()")
    return session._jvm


def _refuse_connect(options: dict[str, Any]) -> None:
    remote = options.get("spark.remote") or os.environ.get("SPARK_REMOTE")
    if remote:
        raise SparkConnectError(
            f"this builder makes a Spark Connect session ({remote}): the plugin belongs to the "
            f"server; start that with --jars $(phoebe jar) --conf spark.plugins={PLUGIN}"
        )


def _refuse_running_without(present: dict[str, str]) -> None:
    from pyspark import SparkContext

    if SparkContext._active_spark_context is not None and PLUGIN not in present.get(
        "spark.plugins", ""
    ):
        raise PluginNotLoadedError(
            "a Spark application already runs in this process, and plugins are loaded when it "
            "starts: stop it (spark.stop()) and call configure before getOrCreate()"
        )
    if SparkContext._jvm is not None and not _loadable(SparkContext._jvm):
        raise PluginNotLoadedError(
            "Spark's JVM already runs in this process, without the plugin's jar on its class path: "
            "restart this process (the notebook's kernel) and call configure before anything "
            "starts Spark, or pass --jars $(phoebe jar) to spark-submit"
        )


def _loadable(jvm: Any) -> bool:
    return bool(jvm.org.apache.spark.util.Utils.classIsLoadable(PLUGIN))


def _present_conf() -> dict[str, str]:
    """What is configured outside the builder: the running JVM's properties, or spark-defaults."""
    from pyspark import SparkConf, SparkContext

    if SparkContext._active_spark_context is not None:
        return dict(SparkContext._active_spark_context.getConf().getAll())
    if SparkContext._jvm is not None:
        return dict(SparkConf(_jvm=SparkContext._jvm).getAll())
    environment = dict(os.environ)
    if not environment.get("SPARK_CONF_DIR"):
        from pyspark.find_spark_home import _find_spark_home

        environment["SPARK_HOME"] = str(_find_spark_home())
    return spark_defaults(environment)
