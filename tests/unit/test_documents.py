"""What README, docs and conf tell people to type exists."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from typer.testing import CliRunner

from phoebe_spark import jar
from phoebe_spark.cli import app
from phoebe_spark.settings import BY_NAME, PREFIX

ROOT = Path(__file__).resolve().parents[2]
FOR_DEVELOPERS = [ROOT / "CONTRIBUTING.md", ROOT / "listeners" / "README.md"]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "conf").iterdir(),
    *FOR_DEVELOPERS,
]
INTERNAL = {"internal"}  # a local property of our own jobs, not a setting


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_settings_that_are_named_exist(path: Path) -> None:
    named = re.findall(re.escape(PREFIX) + r"([a-z_]+(?:\.[a-z_]+)*)", path.read_text())
    assert set(named) - set(BY_NAME) - INTERNAL == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands_that_are_named_exist(path: Path) -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = path.read_text()
    named = re.findall(r"(?:`|^|\$\()phoebe ([a-z]+)", text, re.MULTILINE)
    assert set(named) <= commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", FOR_DEVELOPERS, ids=lambda p: p.parent.name)
def test_files_and_modules_that_developers_are_sent_to_exist(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"`([\w.*-]+/[\w./*-]*)`|T=(\S+/\S+)", text)
    assert named
    for pattern in (backticked or typed for backticked, typed in named):
        assert any(ROOT.glob(pattern.rstrip("/"))), pattern
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_files_that_the_architecture_names_exist() -> None:
    named = re.findall(r"`([\w/]+\.(?:py|scala))`", (ROOT / "docs" / "architecture.md").read_text())
    there = [
        path.relative_to(ROOT).as_posix()
        for folder in ("phoebe_spark", "training", "benchmarks", "listeners/src/main")
        for path in (ROOT / folder).rglob("*")
    ]
    assert len(named) > 30
    assert [n for n in named if not any(f"/{path}".endswith(f"/{n}") for path in there)] == []


def test_readme_starts_with_the_two_commands() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:6]
    assert any("make demo" in line for line in top)
    assert any("make test" in line for line in top)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_shell_scripts_parse() -> None:
    for script in (*(ROOT / "conf").glob("*.sh"), ROOT / ".ci" / "run"):
        subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_commands_of_the_readme_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From no tables to an explained application, on the event log of a real run."""
    logs = tmp_path / "spark-events"
    logs.mkdir()
    shutil.copy(ROOT / "tests/data/eventlogs/01-tpch-sf0.1-p8.zstd", logs)
    if not list(jar.JARS.glob("*.jar")):  # `make jar` was not run: what doctor and jar print counts
        (tmp_path / "phoebe-spark_2.13-0.jar").touch()
        monkeypatch.setattr(jar, "JARS", tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'training'}")
    monkeypatch.setenv("PHOEBE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"(?:`|^|\$\()(phoebe [^`)#\n]+)", text, re.MULTILINE)
    commands = list(dict.fromkeys(command.strip() for command in found))
    assert [c.split()[1] for c in commands] == [
        "doctor", "jar", "ingest", "train", "explain", "explain", "checkpoints"
    ]  # fmt: skip
    printed: dict[str, str] = {}
    for command in commands:
        application = re.search(r"local-\d+", printed.get("phoebe explain", ""))
        typed = command.replace("/var/log/spark-events", str(logs))
        typed = typed.replace("APP_ID", application[0] if application else "")
        result = CliRunner().invoke(app, shlex.split(typed)[1:], env={"COLUMNS": "200"})
        assert result.exit_code == 0, f"{typed}: {result.output}{result.exception!r}"
        printed[command] = result.output
    assert "promoted" in printed["phoebe train"]
    assert (
        "observed" in printed["phoebe explain APP_ID"] or "e0" in printed["phoebe explain APP_ID"]
    )


@pytest.fixture
def hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_jar_older_than_its_sources_is_built_again(
    tmp_path: Path, hatch_build: ModuleType
) -> None:
    jars, listeners = tmp_path / "jars", tmp_path / "listeners"
    source = listeners / "src" / "main" / "A.scala"
    source.parent.mkdir(parents=True)
    source.touch()
    jars.mkdir()
    assert hatch_build.is_stale(jars, listeners)
    made = jars / "phoebe-spark_2.13-0.1.0.jar"
    made.touch()
    os.utime(made, (1000, 1000))
    assert hatch_build.is_stale(jars, listeners)
    os.utime(source, (999, 999))
    assert not hatch_build.is_stale(jars, listeners)
