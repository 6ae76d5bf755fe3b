"""What README, docs and conf tell people to type exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import typer.main

from phoebe_spark.cli import app
from phoebe_spark.settings import BY_NAME, PREFIX

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *(ROOT / "conf").iterdir()]
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
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_readme_starts_with_the_two_commands() -> None:
    top = (ROOT / "README.md").read_text().splitlines()[:6]
    assert any("make demo" in line for line in top)
    assert any("make test" in line for line in top)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_shell_scripts_parse() -> None:
    for script in (ROOT / "conf" / "scheduled-training.sh", ROOT / ".ci" / "run"):
        subprocess.run(["sh", "-n", str(script)], check=True)
