"""Spark's own suites on disk: the class path that runs them, their resources, their names.

Everything comes from Maven and stays below ``build/suites``; nothing of it is in the source tree.
"""

from __future__ import annotations

import re
import struct
import subprocess
import zipfile
from pathlib import Path

from tests.support.places import BUILD, ROOT

PLACE = BUILD / "suites"
# Some have what they vary in behind the name: adaptive execution, the version of a source.
_SUITE = re.compile(r"/\w+Suite(AE|AEOn|AEOff|V[12]|V[12]Filter)?\.class$")
POM = Path(__file__).parent / "pom.xml"


def class_path() -> list[str]:
    """The jars that Spark's suites need, Spark's own among them (resolved once by Maven)."""
    found = PLACE / "classpath"
    if not found.exists() or found.stat().st_mtime < POM.stat().st_mtime:
        PLACE.mkdir(parents=True, exist_ok=True)
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:build-classpath"]
        subprocess.run([*command, f"-Dmdep.outputFile={found}"], cwd=ROOT, check=True)
        found.touch()  # Maven leaves a file alone that would stay the same
    return found.read_text().strip().split(":")


def tests_jar() -> Path:
    """The jar with Spark SQL's suites."""
    (jar,) = [p for p in class_path() if re.search(r"/spark-sql_[0-9.]+-[0-9.]+-tests\.jar$", p)]
    return Path(jar)


def home() -> Path:
    """What the suites take for Spark's source tree: test resources as files (Hadoop reads none that
    are in a jar) and PySpark for the suites of Python functions."""
    place = PLACE / "home"
    whole = place / f"{tests_jar().stem}.unpacked"
    if not whole.exists():
        with zipfile.ZipFile(tests_jar()) as jar:
            files = [n for n in jar.namelist() if not n.endswith((".class", "/"))]
            jar.extractall(place / "sql/core/src/test/resources", files)
        # Without the package itself: a suite looks for `python/pyspark` and `python/lib/py4j*.zip`.
        python = place / "python"
        if not python.exists():
            import pyspark

            python.symlink_to(Path(pyspark.__file__).resolve().parents[1])
        whole.touch()
    return place


def resources() -> Path:
    return home() / "sql/core/src/test/resources"


def suites() -> list[str]:
    """The names of all suites in Spark SQL's jar that are not abstract."""
    with zipfile.ZipFile(tests_jar()) as jar:
        names = [n for n in jar.namelist() if _SUITE.search(n)]
        return sorted(
            n.removesuffix(".class").replace("/", ".") for n in names if is_concrete(jar.read(n))
        )


def is_concrete(class_file: bytes) -> bool:
    """Whether a class file holds a class that can be made: neither abstract nor an interface."""
    return not _access_flags(class_file) & (0x0400 | 0x0200)


def _access_flags(class_file: bytes) -> int:
    """The flags that follow the constant pool (JVM specification, 4.1 and 4.4)."""
    (count,) = struct.unpack_from(">H", class_file, 8)
    at, index = 10, 1
    while index < count:
        tag = class_file[at]
        if tag == 1:  # text of its own length
            at += 3 + int(struct.unpack_from(">H", class_file, at + 1)[0])
        else:
            at += {7: 3, 8: 3, 16: 3, 19: 3, 20: 3, 15: 4}.get(tag, 9 if tag in (5, 6) else 5)
        index += 2 if tag in (5, 6) else 1  # a long or a double takes two places
    return int(struct.unpack_from(">H", class_file, at)[0])
