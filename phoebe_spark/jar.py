"""Where the plugin's jar is: inside the installed package."""

from __future__ import annotations

from pathlib import Path

from phoebe_spark.errors import MissingJarError

JARS = Path(__file__).resolve().parent / "jars"


def jar_path() -> str:
    """The path of the plugin's jar, for ``--jars`` or ``spark.jars``.

    Raises `MissingJarError` when the package was installed without it.
    """
    jars = sorted(JARS.glob("phoebe-spark_2.13-*.jar"))
    if not jars:
        raise MissingJarError(
            f"the plugin's jar is not in {JARS}: install the phoebe-spark wheel, "
            "or run `make jar` in a source tree"
        )
    return str(jars[-1])
