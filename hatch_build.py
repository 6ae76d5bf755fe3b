"""Puts the plugin's jar into the wheel: the built one, or one that Maven builds now."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

JAR = "phoebe-spark_2.13-*.jar"


class JarHook(BuildHookInterface):  # type: ignore[type-arg]
    """An editable install is left alone: there `make jar` brings the jar."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        if version == "editable":
            return
        root = Path(self.root)
        jars = root / "phoebe_spark" / "jars"
        if not list(jars.glob(JAR)):
            if shutil.which("mvn") is None:
                raise RuntimeError("the wheel needs the plugin's jar: run `make jar`, needs Maven")
            subprocess.run(
                ["mvn", "-q", "-B", "package", "-DskipTests"], cwd=root / "listeners", check=True
            )
            jars.mkdir(exist_ok=True)
            for jar in (root / "listeners" / "target").glob(JAR):
                shutil.copy2(jar, jars)
