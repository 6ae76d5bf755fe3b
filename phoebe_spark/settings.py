"""Every `spark.phoebe.*` setting, declared once.

The JVM side's resource (`listeners/src/main/resources/phoebe/settings.json`), the reference page
(`docs/settings.md`), `phoebe doctor` and the companion's own reading of values are all generated
from, or read, `SETTINGS`. After a change run ``python -m phoebe_spark.settings_files``; a test says
when that was forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from phoebe_spark.errors import SettingError

PREFIX = "spark.phoebe."

ValueKind = Literal["choice", "path", "text", "int", "float", "pattern"]
Value = str | int | float


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: ``spark.phoebe.<name>``.

    ``default`` is None where it is derived when the application starts (``derived`` says from
    what). ``session`` settings are read per query from the session's configuration; the others
    once, when the application starts. ``minimum`` and ``maximum`` are inclusive.
    """

    name: str
    kind: ValueKind
    default: Value | None
    doc: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    derived: str = ""
    session: bool = False

    @property
    def key(self) -> str:
        return PREFIX + self.name

    @property
    def accepts(self) -> str:
        """What the setting accepts, in words; part of every error message about it."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind in ("int", "float"):
            noun = "a whole number" if self.kind == "int" else "a number"
            return f"{noun} from {self.minimum:g} to {self.maximum:g}"
        if self.kind == "pattern":
            return self.pattern_words
        return "a path or URI" if self.kind == "path" else "text that is not empty"

    @property
    def pattern_words(self) -> str:
        return "none, all, or a comma-separated list of fingerprints or boundary ids such as e3"

    def parse(self, text: str) -> Value:
        """The typed value of ``text``. Raises `SettingError` if the setting does not accept it."""
        text = text.strip()
        try:
            if self.kind == "int":
                number: float = int(text)
            elif self.kind == "float":
                number = float(text)
            else:
                if self._accepts_text(text):
                    return text
                raise ValueError
            if self.minimum is not None and not number >= self.minimum:
                raise ValueError
            if self.maximum is not None and not number <= self.maximum:
                raise ValueError
        except ValueError:
            raise SettingError(f"{self.key}={text!r}: accepts {self.accepts}") from None
        return number

    def _accepts_text(self, text: str) -> bool:
        if self.kind == "choice":
            return text in self.choices
        if self.kind == "pattern":
            return re.fullmatch(self.pattern, text) is not None
        return bool(text)


_INT_MAX = 2**31 - 1

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "mode",
        "choice",
        "observe",
        "What the plugin does. `off`: nothing. `observe`: runs are harvested into tables. "
        "`advise`: decisions are also computed and recorded, nothing is changed. `apply`: "
        "checkpoints are written and restored. Read per query, so `off` is also the kill switch; "
        "an application that starts with `off` is not harvested.",
        choices=("off", "observe", "advise", "apply"),
        session=True,
    ),
    Setting(
        "home",
        "path",
        "~/.phoebe",
        "Where tables, model bundle, spooled events and, by default, checkpoints live. A path "
        "without a scheme is a local path, whatever `fs.defaultFS` says.",
    ),
    Setting(
        "checkpoint.dir",
        "path",
        None,
        "The checkpoint store: a directory that is new or empty, or that a run before has made "
        "into a store, on any Hadoop file system that the driver and all executors reach. A path "
        "without a scheme is a local path.",
        derived="<home>/checkpoints",
    ),
    Setting(
        "checkpoint.retain",
        "choice",
        "failure",
        "When checkpoints outlive their application. `failure`: they are removed when it ended "
        "well (it stopped its SparkContext itself and no query failed): nobody will resume it. "
        "`always`: they are kept, so that any later run over the same inputs restores them.",
        choices=("failure", "always"),
    ),
    Setting(
        "checkpoint.max_age_hours",
        "int",
        168,
        "Checkpoints that were neither written nor restored for so long are removed, hours. A "
        "week: a job that fails on Friday is looked at on Monday, and a week later its inputs have "
        "changed.",
        minimum=1,
        maximum=87_600,
    ),
    Setting(
        "checkpoint.max_store_bytes",
        "int",
        200 * 2**30,
        "What a store may hold, bytes; beyond it the checkpoints that were used least recently are "
        "removed. Those that a running application needs stay. 200 GiB: they should never be what "
        "fills a disk.",
        minimum=0,
        maximum=2**60,
    ),
    Setting(
        "checkpoint.sharing",
        "choice",
        "owner",
        "Who may restore a checkpoint. `owner`: the user who wrote it; the store's directories are "
        "made private to that user. `all`: any user who can read the files: rights are then those "
        "that the process's umask and the directory give. Only among users who trust each other: "
        "who can write a checkpoint decides what a restored query returns.",
        choices=("owner", "all"),
    ),
    Setting(
        "checkpoint.encryption",
        "choice",
        "none",
        "What encrypts the checkpoint store. `none`: where `spark.io.encryption.enabled` is on, "
        "nothing is written to it. `store`: the store itself encrypts what it holds (an HDFS "
        "encryption zone, server-side encryption, an encrypted disk); map outputs are decrypted "
        "with the application's key, which no later run has, and written there.",
        choices=("none", "store"),
    ),
    Setting(
        "checkpoint.upload_threads",
        "int",
        2,
        "Threads of an executor that upload map outputs to the checkpoint store, beside its tasks.",
        minimum=1,
        maximum=64,
    ),
    Setting(
        "checkpoint.read_timeout_ms",
        "int",
        60000,
        "The longest a task waits for one request (up to 8 MiB) to a checkpoint store that is not "
        "a local disk, milliseconds. After it, Spark computes again what was to be read there.",
        minimum=100,
        maximum=3600000,
    ),
    Setting(
        "checkpoint.look_timeout_ms",
        "int",
        30000,
        "The longest a query's planning waits for looks at the checkpoints that it could restore "
        "(manifest, lengths and footers, some small ones whole; all rows are verified as they are "
        "read), milliseconds. A "
        "boundary whose look has not ended by then is computed, and is not looked at again in the "
        "application; each wait in vain halves the next one, down to `advice.timeout_ms`.",
        minimum=100,
        maximum=3600000,
    ),
    Setting(
        "checkpoint.held_bytes",
        "int",
        33554432,
        "Bytes of restored boundaries that the driver holds for their readers, as broadcasts: "
        "those that could not be computed beside what was read of them, should the store be lost. "
        "What goes beyond that is read from the store.",
        minimum=0,
        maximum=1 << 30,
    ),
    Setting(
        "python",
        "text",
        None,
        "The Python that runs the companion; the package phoebe_spark must be installed there.",
        derived="spark.pyspark.driver.python, spark.pyspark.python, PYSPARK_DRIVER_PYTHON, "
        "PYSPARK_PYTHON, python3: the first that is set (front ends such as jupyter passed over)",
    ),
    Setting(
        "advice.timeout_ms",
        "int",
        500,
        "The longest a query that is expected to be long waits for advice, milliseconds.",
        minimum=1,
        maximum=60_000,
    ),
    Setting(
        "min_duration_ms",
        "int",
        60_000,
        "Queries expected to run for less than this, milliseconds, never wait for advice.",
        minimum=0,
        maximum=_INT_MAX,
        session=True,
    ),
    Setting(
        "objective",
        "choice",
        "both",
        "What a cut is chosen for: `temp` (temporary storage freed, byte-seconds), `restart` "
        "(seconds saved after a failure), or `both`.",
        choices=("both", "temp", "restart"),
    ),
    Setting(
        "budget_fraction",
        "float",
        0.2,
        "Durable storage that a query's checkpoints may take, as a share of its shuffle bytes.",
        minimum=0.0,
        maximum=1.0,
    ),
    Setting(
        "max_cuts",
        "int",
        3,
        "At most so many nested cuts for each query and objective.",
        minimum=1,
        maximum=16,
    ),
    Setting(
        "force",
        "pattern",
        "none",
        "For tests: checkpoint `all` eligible boundaries, or those listed (fingerprints or "
        "boundary ids), in mode `apply`, without asking for advice.",
        pattern=r"none|all|[0-9A-Za-z_-]+(\s*,\s*[0-9A-Za-z_-]+)*",
        session=True,
    ),
    Setting(
        "harvest.sink",
        "choice",
        "delta",
        "Where a run's events go. `delta`: a companion writes the tables with the `deltalake` "
        "package; where that cannot reach the home, the run is spooled. `spool`: files under "
        "`<home>/spool`, written through Hadoop's file system, where only Hadoop knows the store "
        "or its credentials; `phoebe ingest` reads them. No companion is started then, so there is "
        "no advice either.",
        choices=("delta", "spool"),
    ),
    Setting(
        "harvest.queue_capacity",
        "int",
        20_000,
        "Events that may wait for the companion. More are dropped and counted, and the run is "
        "marked incomplete.",
        minimum=100,
        maximum=10_000_000,
    ),
    Setting(
        "harvest.flush_interval_ms",
        "int",
        30_000,
        "How often the companion appends what it harvested to the tables, milliseconds. Each time "
        "costs it some ten milliseconds of processor time for each table.",
        minimum=100,
        maximum=3_600_000,
    ),
    Setting(
        "lease_ms",
        "int",
        180_000,
        "How long a running application's row is valid, milliseconds. It is renewed three times in "
        "that time; once it has expired, the application counts as aborted. So it is with its "
        "lease in the checkpoint store, which keeps what it reads or writes there from removal.",
        minimum=1_000,
        maximum=86_400_000,
    ),
)

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


def resolve(given: Mapping[str, str]) -> dict[str, Value | None]:
    """Values of all settings by short name, from ``given`` (full keys or short names).

    Raises `SettingError` on a value that is not accepted and on an unknown `spark.phoebe.` key.
    """
    values: dict[str, Value | None] = {s.name: s.default for s in SETTINGS}
    for key, text in given.items():
        name = key.removeprefix(PREFIX)
        if name not in BY_NAME:
            raise SettingError(f"{PREFIX}{name} is not a setting; see docs/settings.md")
        values[name] = BY_NAME[name].parse(text)
    return values
