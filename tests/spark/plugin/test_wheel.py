"""The built wheel in an empty environment: it brings the jar, and its companion works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phoebe_spark.tables.deltalake import Tables
from tests.support.apps import submit
from tests.support.places import ROOT


def call(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SPARK_HOME")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` directory of an environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "-o", folder, ROOT]
    call(sys.executable, *build)
    (wheel,) = folder.glob("*.whl")
    call(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    return python.parent


def test_it_brings_jar_command_and_both_packages(installed: Path, tmp_path: Path) -> None:
    jar = Path(call(installed / "phoebe", "jar", cwd=tmp_path).strip())
    assert jar.is_relative_to(installed.parent)
    assert jar.stat().st_size > 50_000
    code = "import phoebe_training, phoebe_spark.companion.advisor; print(phoebe_training.__file__)"
    assert str(installed.parent) in call(installed / "python", "-c", code, cwd=tmp_path)
    names = call(installed / "python", "-m", "pip", "list", cwd=tmp_path)
    assert "pyspark" not in names  # platforms bring their own


def test_doctor_finds_its_companion(installed: Path, tmp_path: Path) -> None:
    command = [installed / "phoebe", "doctor", "--json", "--home", tmp_path / "home"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PY", "SPARK"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=tmp_path, env=environment, capture_output=True
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["companion"]["status"] == "ok", checks["companion"]
    assert checks["jar"]["status"] == "ok"
    # No Spark in there: that is an error that doctor names, with exit code 1.
    assert (checks["spark"]["status"], done.returncode) == ("error", 1)


def test_a_job_is_harvested_by_the_installed_companion(installed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    jar = Path(call(installed / "phoebe", "jar", cwd=tmp_path).strip())
    with submit(
        Path(__file__).with_name("app.py"),
        folder=tmp_path / "app",
        conf={
            "spark.plugins": "phoebe.PhoebePlugin",
            "spark.phoebe.home": str(home),
            "spark.phoebe.python": str(installed / "python"),
        },
        packages_jars=[jar],
        environment={"PYTHONPATH": ""},
        with_event_log=False,
    ) as app:
        app.wait(120).check()
    (application,) = Tables(home).read("applications").to_pylist()
    assert (application["status"], application["complete"]) == ("finished", True)
