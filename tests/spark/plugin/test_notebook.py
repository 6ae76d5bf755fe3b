"""A notebook user: `configure` in a real kernel, then `status`, then the rows; a kernel that is
killed and restarted resumes."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from phoebe_spark.tables.deltalake import Tables
from tests.support.places import ROOT
from tests.support.store import committed, wait_for_commits

CONFIGURE = """
import phoebe_spark
from pyspark.sql import SparkSession
builder = (
    SparkSession.builder.appName("notebook").master("local[2]")
    .config("spark.ui.enabled", "false").config("spark.driver.memory", "1g")
)
spark = phoebe_spark.configure(builder, home={home!r}, mode="observe").getOrCreate()
"""
APPLY = """
import phoebe_spark
from pyspark.sql import SparkSession
builder = (
    SparkSession.builder.appName("notebook").master("local[2]")
    .config("spark.ui.enabled", "false").config("spark.driver.memory", "1g")
    .config("spark.sql.shuffle.partitions", "2")
)
spark = phoebe_spark.configure(builder, home={home!r}, mode="apply", force="all").getOrCreate()
"""
ROWS = """
frame = spark.range(0, 10000, 1, 2).selectExpr("id % 7 as k", "id").groupBy("k").sum("id")
print(sorted(map(tuple, frame.collect())))
"""
RESTORED = 'phoebe_spark.status(spark)["counts"].get("checkpoints.restored", 0)'
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


def run(folder: Path, *cells: str, kernel: KernelManager | None = None) -> list[str]:
    """What the cells show; in ``kernel``, which goes on after them, or in one of their own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=180,
        startup_timeout=180,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    if client.kc:
        # A restarted kernel has its old ports, and a manager's clients one name: one that is left
        # open connects again, and the kernel then answers it and not the next.
        client.kc.stop_channels()
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


def test_the_same_cells_in_a_killed_and_restarted_kernel_resume(tmp_path: Path) -> None:
    home = tmp_path / "home"
    cells = (APPLY.format(home=str(home)), ROWS, RESTORED)
    kernel = KernelManager(kernel_name="python3")
    try:
        _, first, restored = run(tmp_path, *cells, kernel=kernel)
        assert restored == "0"
        left = wait_for_commits(home / "checkpoints", 1)
        kernel.restart_kernel(now=True)
        assert committed(home / "checkpoints") == left, "nobody said goodbye"
        _, again, restored, _ = run(tmp_path, *cells, "spark.stop()", kernel=kernel)
    finally:
        kernel.shutdown_kernel(now=True)
    assert int(restored) >= 1
    assert again == first == f"{[(k, sum(range(k, 10000, 7))) for k in range(7)]}\n"
    assert not committed(home / "checkpoints"), "it ended well this time"


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
