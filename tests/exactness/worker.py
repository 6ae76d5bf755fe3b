"""A process with one JVM that runs batches: many small applications, one after the other.

``python -m tests.exactness.worker JAR`` reads one JSON object a line (``batch``, ``root``,
``runs``) and answers with one: for each run and case its outcome. Applications are SparkContexts
of one JVM, as in a notebook; each has the plugin through ``spark.plugins`` or not at all. Cases of
a batch share them, each with sessions and files of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.exactness import sql, tables
from tests.exactness.cases import Batch, Case, Mishap, Run, Table, batch_of
from tests.support import delta

RUNS = ("plain", "write", "restore", "second", "second_plain")
"""``plain``, ``write`` and ``restore`` are of the first application, the others of the second."""

CLEANUP = "spark.sql.classic.shuffleDependency.fileCleanup.enabled"
_WITH_PLUGIN = ("write", "restore", "second")


def plain(value: Any) -> Any:
    """A value of a row as JSON, with its kind where JSON has none for it."""
    from pyspark.sql import Row

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, Row):
        return {"row": [[n, plain(v)] for n, v in zip(value.__fields__, value, strict=True)]}
    if isinstance(value, dict):
        pairs = [[plain(k), plain(v)] for k, v in value.items()]
        return {"map": sorted(pairs, key=json.dumps)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, Decimal | datetime | date):
        return {type(value).__name__: str(value)}
    return {type(value).__name__: str(value)}


def rows_of(rows: Any) -> list[Any]:
    return [[plain(v) for v in row] for row in rows]


class Application:
    """One SparkContext: made, used by the cases of a batch in turn, stopped."""

    def __init__(self, batch: Batch, root: Path, run: str) -> None:
        from pyspark.sql import SparkSession

        import phoebe_spark

        self.run = run
        self.second = run.startswith("second")
        builder = SparkSession.Builder()
        builder.master(f"local[{batch.cores[1 if self.second else 0]}]").appName("exactness")
        conf = {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": str(root / "local"),
            "spark.sql.warehouse.dir": str(root / "warehouse"),
            "spark.default.parallelism": "2",
            "spark.sql.leafNodeDefaultParallelism": "2",
            "spark.sql.execution.arrow.pyspark.enabled": "true",
            "spark.python.daemon.module": "tests.exactness.python_daemon",
            **batch.conf,
            **(delta.SETTINGS if batch.delta else {}),
        }
        for key, value in conf.items():
            builder.config(key, value)
        if run in _WITH_PLUGIN:
            phoebe_spark.configure(
                builder,
                home=str(root / "home"),
                mode="apply",
                force="none",
                harvest_sink="spool",
                checkpoint_dir=str(root / "store"),
                checkpoint_retain="always",
                advice_timeout_ms=10000,
            )
        self.spark = builder.getOrCreate()
        self.spark.sparkContext.setLogLevel("OFF")
        executions = self.spark.sparkContext._jvm.java.lang.Class.forName(
            "org.apache.spark.sql.execution.SQLExecution$"
        )
        self._executions = executions.getDeclaredField("_nextExecutionId")
        self._executions.setAccessible(True)

    def counts(self) -> dict[str, int]:
        import phoebe_spark

        if self.run not in _WITH_PLUGIN:
            return {}
        counts: dict[str, int] = phoebe_spark.status(self.spark)["counts"]
        return counts

    def execution(self) -> int:
        """How many SQL executions this JVM has begun: the next one has this number."""
        return int(self._executions.get(None))

    def stop(self) -> None:
        self.spark.stop()


def view(session: Any, maker: Any, table: Table, files: Path, name: str) -> None:
    """Makes the relation of a table; it lists its files."""
    path = str(tables.folder(files, table))
    if table.made_by == "catalog":
        told = ", ".join(f"{k} '{v}'" for k, v in {**table.options, "path": path}.items())
        schema = f"({table.schema})" if table.schema else ""
        session.sql(f"CREATE TABLE {name} {schema} USING {table.format} OPTIONS ({told})")
        session.table(name).createOrReplaceTempView(table.name)
        return
    reader = (maker if table.made_by == "global" else session).read.format(table.format)
    if table.schema:
        reader = reader.schema(table.schema)
    frame = reader.options(**table.options).load(path)
    if table.made_by == "global":
        frame.createOrReplaceGlobalTempView(name)
        session.table(f"global_temp.{name}").createOrReplaceTempView(table.name)
    else:
        frame.createOrReplaceTempView(table.name)


def posted(frame: Any, post: str) -> Any:
    """What is done to a query's frame before it is asked for its rows."""
    import pandas
    from pyspark.sql import functions

    if not post:
        return frame
    if post == "cached":
        return frame.cache()
    if post == "explained":
        frame._jdf.queryExecution().executedPlan()
        return frame
    name = frame.columns[0]
    if post == "python_udf":
        twice = functions.udf(lambda v: None if v is None else str(v) + "!", "string")
        return (
            frame.groupBy(name)
            .count()
            .withColumn("posted", twice(functions.col(name).cast("string")))
            .groupBy("posted")
            .sum("count")
        )

    def same(parts: Iterator[Any]) -> Iterator[Any]:
        time.sleep(0.25)  # a commit below, and what befalls the store, come before its end
        yield from parts

    def count(pdf: Any) -> Any:
        return pandas.DataFrame({"k": pdf["k"].tolist()[:1], "n": [len(pdf)]})

    # Of the first column and the last one: what computes either must not be optimized away.
    both = [functions.col(c).cast("string") for c in (name, frame.columns[-1])]
    keys = frame.select(functions.concat_ws("|", *both).alias("k"))
    if post == "pandas_map":
        return keys.mapInPandas(same, "k string").groupBy("k").count().repartition("count")
    return keys.groupBy("k").applyInPandas(count, "k string, n long").repartition("n")


def _cleaned_up(session: Any) -> None:
    """Lets Spark finish with what it removes beside the driver's thread when a query has ended.

    Whoever reads in the middle of that gets no rows, or an error, from Spark alone as well.
    """
    if session.conf.get(CLEANUP, "false") == "true":
        time.sleep(0.1)


def fetched(session: Any, frame: Any, action: str, out: Path) -> list[list[Any]]:
    """The rows of a frame, once for each time that the action reads them."""
    if action == "twice":
        first = rows_of(frame.collect())
        _cleaned_up(session)
        return [first, rows_of(frame.collect())]
    if action == "rdd":
        return [rows_of(frame.rdd.collect())]
    if action == "rdd_after":
        first = rows_of(frame.collect())
        _cleaned_up(session)
        return [first, rows_of(frame.rdd.collect())]
    if action == "iterate":
        lazy = frame.toLocalIterator()
        _cleaned_up(session)
        return [rows_of(lazy)]
    if action == "iterate_between":
        lazy = frame.toLocalIterator()
        _cleaned_up(session)
        got = list(itertools.islice(lazy, 2))
        between = rows_of(frame.collect())
        _cleaned_up(session)
        return [rows_of([*got, *lazy]), between]
    if action == "count_then_collect":
        count = frame.count()
        _cleaned_up(session)
        return [[[count]], rows_of(frame.collect())]
    if action == "write":
        frame.write.mode("overwrite").json(str(out))
        lines = [ln for p in sorted(out.glob("part-*")) for ln in p.read_text().splitlines()]
        return [[[line] for line in lines]]
    if action == "view":
        frame.createOrReplaceTempView("seen")
        first = rows_of(frame.collect())
        _cleaned_up(session)
        again = session.sql(f"SELECT * FROM seen WHERE `{frame.columns[0]}` IS NOT NULL")
        return [first, rows_of(again.collect())]
    if action == "joined_with_itself":
        key = frame.columns[0]
        other = frame.groupBy(key).count().withColumnRenamed(key, "same_key")
        return [rows_of(frame.join(other, frame[key] == other["same_key"]).collect())]
    if action == "zipped":
        zipped = frame._jdf.javaToPython().rdd().zipWithIndex().count()
        return [rows_of(frame.collect()), [[zipped]]]
    return [rows_of(frame.collect())]


def _set(session: Any, settings: dict[str, str]) -> None:
    for key, value in settings.items():
        session.conf.set(key, value)


class CaseRun:
    """One case within one application."""

    def __init__(
        self, app: Application, case: Case, folder: Path, number: int, wrote: list[Any] | None
    ) -> None:
        self.app, self.case, self.folder, self.number = app, case, folder, number
        self.files = folder / "data"
        self.wrote = wrote

    def outcome(self) -> dict[str, Any]:
        case, app = self.case, self.app
        run: Run = case.second if app.second else case.first
        before = app.counts()
        begun = app.execution()
        found: dict[str, Any] = {}
        changer: threading.Thread | None = None
        session = None
        frame = None
        try:
            session = app.spark.newSession()
            maker = session
            if any(table.made_by == "global" for table in case.tables):
                maker = app.spark.newSession()
                _set(maker, run.maker)
            _set(session, run.settings)
            if app.run != "restore":
                session.conf.set("spark.phoebe.force", run.force)
            for table in case.tables:
                view(session, maker, table, self.files, f"g{self.number}_{table.name}")
            frame = session.sql(sql.query(run.query))
            if run.action != "collect":
                # What `sql` returns is never cleaned up after, whatever the setting says.
                frame = frame.select("*")
            frame = posted(frame, run.post)
            moment = case.change.moment
            first = app.run in ("plain", "write")
            if (moment == "listed" and app.second) or (moment == "listed_write" and first):
                self.change()
            if moment == "running_write" and app.run == "write":
                changer = self._when_running(session, self.change)
            if case.mishap.running and app.run == "second" and self.wrote:
                changer = self._when_running(session, self.mishap)
            found["rows"] = fetched(session, frame, run.action, self.folder / "out")
            if run.action == "collect" and not run.post:
                said = frame._jdf.queryExecution().executedPlan().toString()
                found["reused"] = said.split("== Initial Plan ==")[0].count("ReusedExchange")
            if moment == "ran_write" and app.run == "write":
                self.change()
        except Exception as error:
            found = {"error": _cause(error)}
        if changer is not None:
            changer.join()
        if frame is not None and run.post == "cached":
            frame.unpersist()
        after = app.counts()
        found["counts"] = {
            k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)
        }
        found["wrote"] = [app.spark.sparkContext.applicationId, [begun, app.execution()]]
        return found

    def change(self) -> None:
        tables.change(self.files, self.case)

    def mishap(self) -> None:
        assert self.wrote is not None
        befall(self.folder.parent / "store", self.case.mishap, *self.wrote)

    def _when_running(self, session: Any, do: Callable[[], None]) -> threading.Thread:
        """Does it once a stage of the query runs, or after a second."""
        tracker = session.sparkContext.statusTracker()

        def watch() -> None:
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline and not tracker.getActiveStageIds():
                time.sleep(0.002)
            time.sleep(self.case.change.delay_ms / 1000)
            with contextlib.suppress(OSError):
                do()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


def _cause(error: BaseException) -> str:
    """A failure in a few words: its class, and the first lines of what it says."""
    lines = str(error).strip().splitlines()
    said = "\n".join(line for line in lines if not line.startswith("\t"))
    return f"{type(error).__name__}: {said[:1500]}"


def befall(store: Path, mishap: Mishap, application: str, executions: Sequence[int]) -> None:
    """Does to the checkpoints that these executions of an application wrote what is to be done."""
    found = []
    for path in sorted(store.glob("catalog/*.manifest")):
        told = json.loads(path.read_text())
        if told["app_id"] == application and executions[0] <= told["execution_id"] < executions[1]:
            found.append((path, told["packs"]))
    if not mishap.every and found:
        found = [found[mishap.spot % len(found)]]
    for path, packs in found:
        if mishap.kind == "forgotten":
            path.unlink()
            continue
        folder = store.joinpath("data", *path.stem.rsplit("-", 1))
        for n, pack in enumerate(packs):
            file = folder / pack["file"]
            if mishap.kind == "lost":
                file.unlink(missing_ok=True)
            elif (mishap.every or n == mishap.spot % len(packs)) and pack["footer_offset"]:
                data = bytearray(file.read_bytes())
                data[pack["footer_offset"] * mishap.spot // 100] ^= 0xFF
                file.write_bytes(bytes(data))


def run_batch(batch: Batch, root: Path, runs: tuple[str, ...] = RUNS) -> dict[str, Any]:
    """Runs a batch; outcomes by run, one for each case, and what went wrong beside them."""
    folders = [root / f"case{n}" for n in range(len(batch.cases))]
    for case, folder in zip(batch.cases, folders, strict=True):
        folder.mkdir(parents=True)
        tables.write(folder / "data", case)
        tables.keep(folder / "data", folder / "kept")
    found: dict[str, Any] = {"left": [], "seconds": {}}
    for run in runs:
        wrote = found.get("write", [])
        _prepare(batch, folders, root / "store", run, wrote)
        wanted = [_answered(case, n, run, found) for n, case in enumerate(batch.cases)]
        clock = [time.monotonic()]
        app = Application(batch, root, run)
        clock.append(time.monotonic())
        try:
            outcomes = []
            for n, (case, folder) in enumerate(zip(batch.cases, folders, strict=True)):
                mine = CaseRun(app, case, folder, n, wrote[n].get("wrote") if wrote else None)
                outcomes.append(wanted[n] or mine.outcome())
            found[run] = outcomes
            clock.append(time.monotonic())
        finally:
            before = _failures()
            app.stop()
            if (after := _failures()) != before:
                found["left"].append(f"failed at the end of {run}: {after}")
        clock.append(time.monotonic())
        found["seconds"][run] = [round(b - a, 2) for a, b in itertools.pairwise(clock)]
    if "second" in runs:
        found["left"] += _left_threads()
    return found


def _failures() -> str:
    """What the plugin has caught of its own failures so far."""
    from pyspark import SparkContext

    said: str = SparkContext._jvm.phoebe.FailSafe.counts().toString()
    return said


def _answered(case: Case, n: int, run: str, found: dict[str, Any]) -> dict[str, Any] | None:
    """The outcome of a run that need not run; None if it must."""
    skipped: dict[str, Any] = {"skipped": True, "counts": {}}
    if run == "restore" and case.change.moment.endswith("write"):
        return skipped
    if run in ("restore", "second", "second_plain") and "write" in found:
        counts = found["write"][n]["counts"]
        if not counts.get("boundaries.checkpoint"):
            return skipped  # there is nothing to restore
    if run == "second_plain" and "plain" in found and case.change.kind == "none":
        plain: dict[str, Any] = found["plain"][n]
        if dataclasses.replace(case.second, force=case.first.force) == case.first:
            return plain
    return None


def _prepare(batch: Batch, folders: list[Path], store: Path, run: str, wrote: list[Any]) -> None:
    """Brings files and store into the state in which a run is to find them."""
    for n, (case, folder) in enumerate(zip(batch.cases, folders, strict=True)):
        if run == "second" and case.mishap.kind != "none" and not case.mishap.running:
            befall(store, case.mishap, *wrote[n]["wrote"])
        moment = case.change.moment
        data, kept = folder / "data", folder / "kept"
        if run == "write" and moment == "listed_write":
            tables.bring_back(data, kept)
        if run == "second" and moment == "between":
            tables.change(data, case)
        if run == "second" and case.change.back:
            tables.bring_back(data, kept)
        if run == "second_plain" and moment == "listed":
            tables.bring_back(data, kept)


def _left_threads() -> list[str]:
    """Threads of the plugin that outlive its application."""
    from pyspark import SparkContext

    jvm = SparkContext._jvm
    if jvm is None:
        return []
    names = [t.getName() for t in jvm.java.lang.Thread.getAllStackTraces().keySet()]
    return sorted({n for n in names if n.startswith("phoebe-")})


def launch(jar: str, packages: str) -> None:
    """Starts the JVM with the plugin's jar on its class path; no application yet."""
    from pyspark import SparkConf, SparkContext

    arguments = ["--master", "local[2]", "--driver-memory", "1g", "--driver-class-path", jar]
    arguments += ["--conf", "spark.ui.enabled=false"]
    if packages:
        arguments += ["--packages", packages]
    options = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
    os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join(
        [*arguments, "--driver-java-options", f"'{options}'", "pyspark-shell"]
    )
    SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False))


def main() -> int:
    jar, packages = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Spark's JVM prints goes with the log
    launch(jar, packages)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        root = Path(asked["root"])
        shutil.rmtree(root, ignore_errors=True)
        try:
            said: dict[str, Any] = run_batch(batch_of(asked["batch"]), root, tuple(asked["runs"]))
        except Exception:
            said = {"broken": traceback.format_exc()}
        finally:
            if not asked.get("keep"):
                shutil.rmtree(root, ignore_errors=True)
        answers.write(json.dumps(said) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
