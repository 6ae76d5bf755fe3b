"""A notebook user: `configure` in a real kernel, then `status`, then the rows."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from phoebe_spark.tables import Tables
from tests.support.places import ROOT

CONFIGURE = """
import phoebe_spark
from pyspark.sql import SparkSession
builder = (
    SparkSession.builder.appName("notebook").master("local[2]")
    .config("spark.ui.enabled", "false").config("spark.driver.memory", "1g")
)
spark = phoebe_spark.configure(builder, home={home!r}, mode="observe").getOrCreate()
"""
QUERY = 'spark.range(100).selectExpr("id % 7 as k").groupBy("k").count().orderBy("k").count()'
STATUS = """
import time
while phoebe_spark.status(spark)["companion"] != "ready":
    time.sleep(0.1)
phoebe_spark.status(spark)["mode"]
"""
TOO_LATE = """
try:
    phoebe_spark.configure(SparkSession.builder)
except phoebe_spark.PluginNotLoadedError as error:
    print(error)
"""


def output(cell: nbformat.NotebookNode) -> str:
    return "".join(o.get("text", "") or o["data"]["text/plain"] for o in cell["outputs"])


def run(folder: Path, *cells: str) -> list[str]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [output(cell) for cell in notebook.cells]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("SPARK_", "PYSPARK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "training")]))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    # As notebook servers are started for PySpark: not a Python that can run the companion.
    monkeypatch.setenv("PYSPARK_DRIVER_PYTHON", "jupyter")


def test_configure_in_a_kernel(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _, count, mode, _ = run(
        tmp_path, CONFIGURE.format(home=str(home)), QUERY, STATUS, "spark.stop()"
    )
    assert (count, mode) == ("7", "'observe'")
    (application,) = Tables(home).read("applications").to_pylist()
    assert (application["app_name"], application["status"]) == ("notebook", "finished")


def test_a_session_that_runs_without_the_plugin_is_said_to_be_too_late(tmp_path: Path) -> None:
    plain = CONFIGURE.replace(
        'phoebe_spark.configure(builder, home={home!r}, mode="observe")', "builder"
    )
    _, message, status, _ = run(
        tmp_path,
        plain,
        TOO_LATE,
        TOO_LATE.replace("configure(SparkSession.builder)", "status(spark)"),
        "spark.stop()",
    )
    assert "call configure before getOrCreate" in message
    assert "without phoebe_spark's jar" in status
    assert "JavaPackage" not in message + status
