"""What Spark's own defaults say, read as Spark reads them."""

from __future__ import annotations

from pathlib import Path

from phoebe_spark.spark_env import read_defaults, spark_defaults

DEFAULTS = r"""
# a comment
! another
spark.master                     local[2]
spark.driver.extraJavaOptions    -Dfoo=bar -Dbaz=1:2
spark.app.name=one=two
spark.sql.shuffle.partitions : 7
spark.phoebe.home = /srv/a home
spark.jars.packages  a:b:1,\
                     c:d:2
spark.empty
"""


def test_a_value_keeps_what_could_have_ended_its_key(tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text(DEFAULTS)
    expected = {
        "spark.master": "local[2]",
        "spark.driver.extraJavaOptions": "-Dfoo=bar -Dbaz=1:2",
        "spark.app.name": "one=two",
        "spark.sql.shuffle.partitions": "7",
        "spark.phoebe.home": "/srv/a home",
        "spark.jars.packages": "a:b:1,c:d:2",
    }
    assert read_defaults(tmp_path) == expected
    assert spark_defaults({"SPARK_CONF_DIR": str(tmp_path), "SPARK_HOME": "/nowhere"}) == expected


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == {}
    assert spark_defaults({}) == {}
