"""``phoebe jar``: the path of the plugin's jar, for ``spark-submit --jars``."""

from __future__ import annotations

import typer

from phoebe_spark.jar import jar_path


def jar() -> None:
    """Print the path of the plugin's jar.

    spark-submit --jars "$(phoebe jar)" --conf spark.plugins=phoebe.PhoebePlugin job.py
    """
    typer.echo(jar_path())
