"""Puts the plugin's jar into the wheel: the built one if it is as new as its sources, or one that
Maven builds now."""

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
        if is_stale(jars, root / "listeners"):
            if shutil.which("mvn") is None:
                raise RuntimeError(
                    f"the plugin's jar in {jars} is missing or older than listeners/: run "
                    "`make jar`, needs Maven"
                )
            subprocess.run(
                ["mvn", "-q", "-B", "-Dstyle.color=never", "package", "-DskipTests"],
                cwd=root / "listeners",
                check=True,
            )
            jars.mkdir(exist_ok=True)
            for old in jars.glob(JAR):
                old.unlink()
            for jar in (root / "listeners" / "target").glob(JAR):
                shutil.copy(jar, jars)


def is_stale(jars: Path, listeners: Path) -> bool:
    """Whether there is no jar, or one that is older than what it is made of."""
    built = [jar.stat().st_mtime for jar in jars.glob(JAR)]
    main = (listeners / "src" / "main").rglob("*")
    sources = [p for p in (listeners / "pom.xml", *main) if p.is_file()]
    changed = [p.stat().st_mtime for p in sources]
    return not built or min(built) < max(changed, default=0.0)
