"""`configure` and `status`: appended, never overwritten; errors that say what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import phoebe_spark
from phoebe_spark import jar, session


@pytest.fixture(autouse=True)
def _with_jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jar, "JARS", tmp_path)
    (tmp_path / "phoebe-spark_2.13-0.1.0.jar").touch()
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))


def builder() -> SparkSession.Builder:
    return SparkSession.Builder()


def options(made: SparkSession.Builder) -> dict[str, str]:
    found: dict[str, str] = made._options
    return found


def test_plugin_and_jar_are_appended_to_what_is_there() -> None:
    made = builder().config("spark.plugins", "com.acme.Plugin").config("spark.jars", "/a.jar")
    phoebe_spark.configure(
        made, home="/data/phoebe", mode="advise", advice_timeout_ms=200, extra_packages=["g:a:1"]
    )
    found = options(made)
    assert found["spark.plugins"] == "com.acme.Plugin,phoebe.PhoebePlugin"
    assert found["spark.jars"] == f"/a.jar,{phoebe_spark.jar_path()}"
    assert found["spark.jars.packages"] == "g:a:1"
    assert found["spark.phoebe.home"] == "/data/phoebe"
    assert found["spark.phoebe.mode"] == "advise"
    assert found["spark.phoebe.advice.timeout_ms"] == "200"
    assert found["spark.phoebe.python"] == sys.executable


def test_twice_is_as_once() -> None:
    made = phoebe_spark.configure(phoebe_spark.configure(builder()))
    assert options(made)["spark.plugins"] == "phoebe.PhoebePlugin"
    assert options(made)["spark.jars"] == phoebe_spark.jar_path()


def test_spark_defaults_are_appended_to_as_well(tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text("# ours\nspark.plugins   com.acme.Plugin\n")
    assert options(phoebe_spark.configure(builder()))["spark.plugins"] == (
        "com.acme.Plugin,phoebe.PhoebePlugin"
    )


def test_a_missing_jar_is_said_as_such(tmp_path: Path) -> None:
    for path in tmp_path.glob("*.jar"):
        path.unlink()
    with pytest.raises(phoebe_spark.MissingJarError, match="make jar"):
        phoebe_spark.configure(builder())


def test_a_connect_builder_is_told_where_the_plugin_belongs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(phoebe_spark.SparkConnectError, match="server"):
        phoebe_spark.configure(builder().config("spark.remote", "sc://localhost"))
    monkeypatch.setenv("SPARK_REMOTE", "sc://localhost")
    with pytest.raises(phoebe_spark.SparkConnectError, match="server"):
        phoebe_spark.configure(builder())


def test_bad_settings_name_themselves() -> None:
    with pytest.raises(phoebe_spark.SettingError, match=r"spark\.phoebe\.mode='aply': accepts"):
        phoebe_spark.configure(builder(), mode="aply")
    with pytest.raises(phoebe_spark.SettingError, match="hme is not a setting"):
        phoebe_spark.configure(builder(), hme="/x")


def test_a_session_in_place_of_a_builder_is_refused() -> None:
    with pytest.raises(TypeError, match="before getOrCreate"):
        phoebe_spark.configure(object())  # type: ignore[arg-type]


def test_status_without_a_session_and_with_a_connect_session_say_different_things() -> None:
    with pytest.raises(phoebe_spark.NoSessionError, match="getOrCreate"):
        session.status(None)
    connect = type("SparkSession", (), {"__module__": "pyspark.sql.connect.session"})()
    with pytest.raises(phoebe_spark.SparkConnectError, match="no JVM of its own"):
        session.status(connect)


def test_import_is_inert_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, phoebe_spark; "
        "heavy = {'pyspark', 'lightgbm', 'pandas', 'mlflow', 'deltalake', 'pulp', 'numpy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_the_public_surface() -> None:
    assert set(phoebe_spark.__all__) == {
        "MissingJarError",
        "NoSessionError",
        "PhoebeError",
        "PluginNotLoadedError",
        "SettingError",
        "SparkConnectError",
        "__version__",
        "configure",
        "jar_path",
        "status",
    }
    root = Path(__file__).resolve().parents[2]
    assert f'version = "{phoebe_spark.__version__}"' in (root / "pyproject.toml").read_text()
    pom = (root / "listeners" / "pom.xml").read_text()
    assert f"<version>{phoebe_spark.__version__}</version>" in pom
