"""MLflow: one run per model group, with parameters, metrics, features, importance plot and models.

MLflow is the record; a driver never reads from it. The promoted version carries the alias
``champion`` in the registry. A registered version stands for its whole group: it has the model of
one head, which MLflow can load, and names the run's artifact ``bundle``, which holds the group's
files as drivers read them. By default everything lies in ``<home>/mlflow.db`` and
``<home>/mlartifacts``.
"""

from __future__ import annotations

import io
import logging
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phoebe_spark.predict.heads import HEADS, MODEL_GROUPS, Head
from phoebe_training.fit import FitSettings, Fitted
from phoebe_training.signature import foreign, is_signed, may_be_signed, objects, sign

if TYPE_CHECKING:
    import lightgbm
    from mlflow import MlflowClient

EXPERIMENT = "phoebe"
CHAMPION = "champion"
BUNDLE = "bundle"
REGISTERED = {group: f"phoebe-{group.replace('_', '-')}" for group in MODEL_GROUPS}
_REQUIREMENTS = ["lightgbm"]  # named, or MLflow would import everything to infer them


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where a training was recorded: run ids and registered versions by model group."""

    tracking_uri: str
    run_ids: dict[str, str]
    versions: dict[str, str]

    def describe(self) -> dict[str, object]:
        """The entry in the bundle's metadata."""
        return {
            "tracking_uri": self.tracking_uri,
            "run_ids": self.run_ids,
            "registered": {REGISTERED[group]: version for group, version in self.versions.items()},
        }


def default_tracking_uri(home: str | Path) -> str:
    return f"sqlite:///{_database(home)}"


def check_database(home: str | Path, tracking_uri: str | None) -> None:
    """Whether a training may record where `record` would: MLflow changes the tables of any database
    that it opens, so the one under ``home`` must be ours. A server or a file that is named is its
    owner's choice. Raises `phoebe_spark.errors.ForeignFileError`.
    """
    path = _database(home)
    if _named(tracking_uri) or not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30.0)) as db:
            ours = _is_ours(db, home)
    except sqlite3.OperationalError as error:
        raise type(error)(f"{path}: {error}") from error
    except sqlite3.DatabaseError:
        ours = False
    if not ours:
        raise foreign(path, f"name sqlite:///{path} as --tracking-uri to use it, or another home")


def _is_ours(db: sqlite3.Connection, home: str | Path) -> bool:
    """One without the signature is ours where it has our experiment, or nothing yet."""
    if is_signed(db):
        return True
    found = objects(db)
    if not may_be_signed(db) or not found:
        return may_be_signed(db)
    with suppress(sqlite3.OperationalError):  # other tables
        asked = "SELECT 1 FROM experiments WHERE name = ? AND artifact_location = ?"
        return db.execute(asked, (EXPERIMENT, _artifacts(home))).fetchone() is not None
    return False


def _sign(home: str | Path) -> None:
    path = _database(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as db:
        if not is_signed(db):
            sign(db)


def _named(tracking_uri: str | None) -> str | None:
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def _database(home: str | Path) -> Path:
    return Path(home).expanduser().resolve() / "mlflow.db"


def _artifacts(home: str | Path) -> str:
    return (Path(home).expanduser().resolve() / "mlartifacts").as_uri()


def record(
    home: str | Path,
    tracking_uri: str | None,
    fitted: Fitted,
    settings: FitSettings,
    metrics: Mapping[str, Mapping[str, float]],
    tags: Mapping[str, str],
    files: Mapping[str, bytes],
) -> Recorded:
    """Log three runs and register a version of each model group; ``files`` are the bundle's.

    ``tracking_uri`` None: ``MLFLOW_TRACKING_URI``, else SQLite under ``home``. Raises MLflow's
    exceptions when the server or the file cannot be written, and
    what `check_database` raises.
    """
    check_database(home, tracking_uri)
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    tracking_uri = _named(tracking_uri)
    if tracking_uri is None:
        _sign(home)
    uri = tracking_uri or default_tracking_uri(home)
    with _quiet():
        import mlflow

        mlflow.set_tracking_uri(uri)
        # It also sets the variable, which would send the next home's training to this one's record.
        if from_environment is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = _experiment(client, home if tracking_uri is None else None)
        run_ids: dict[str, str] = {}
        versions: dict[str, str] = {}
        for group in MODEL_GROUPS:
            with mlflow.start_run(
                experiment_id=experiment, run_name=f"{group} {tags['version']}"
            ) as run:
                run_ids[group] = run.info.run_id
                mlflow.set_tags({**tags, "group": group})
                mlflow.log_params(_params(group, fitted, settings))
                mlflow.log_metrics(dict(metrics[group]))
                _log_bundle(group, fitted, files)
                name, model_uri = _log_models(group, fitted)
                more = {**tags, "head": name, "bundle": f"runs:/{run.info.run_id}/{BUNDLE}"}
                versions[group] = _register(client, group, model_uri, run.info.run_id, more)
        return Recorded(uri, run_ids, versions)


def promote(recorded: Recorded) -> None:
    """Point the registry's alias at the recorded versions, group by group.

    A registry that goes away between two groups leaves the aliases of two trainings, until the next
    promotion.
    """
    with _quiet():
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=recorded.tracking_uri)
        for group, version in recorded.versions.items():
            client.set_registered_model_alias(REGISTERED[group], CHAMPION, version)


def _heads(group: str) -> list[Head]:
    return [head for head in HEADS if head.group == group]


def _experiment(client: MlflowClient, home: str | Path | None) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if home is not None:
        location = _artifacts(home)
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def _params(group: str, fitted: Fitted, settings: FitSettings) -> dict[str, object]:
    params: dict[str, object] = dict(asdict(settings))
    params["stage_delay_ms"] = round(fitted.stage_delay_ms, 1)
    for head in _heads(group):
        params[f"{head.figure}_rows_{head.kind}"] = fitted.rows[head]
        params[f"{head.name}_weight"] = fitted.models[head].weight
        params[f"{head.name}_features"] = len(fitted.models[head].features)
    return params


def _log_bundle(group: str, fitted: Fitted, files: Mapping[str, bytes]) -> None:
    """The group's files of the bundle, and its heads' entries in the metadata."""
    import mlflow

    mine = [name for name in files if name.startswith(f"{group}/")]
    with tempfile.TemporaryDirectory() as work:
        for name in mine:
            (Path(work) / Path(name).name).write_bytes(files[name])
        mlflow.log_artifacts(work, BUNDLE)
    heads = {head.name: fitted.models[head].describe(head) for head in _heads(group)}
    mlflow.log_dict(heads, f"{BUNDLE}/heads.json")


def _log_models(group: str, fitted: Fitted) -> tuple[str, str | None]:
    """Log the models of a group; returns name and URI of the one to register: the last recurring
    one, or the last. ``("baseline", None)`` where there were too few rows for any."""
    import mlflow

    models = {head: fitted.models[head] for head in _heads(group)}
    mlflow.log_dict({h.name: list(model.features) for h, model in models.items()}, "features.json")
    boosters = {h: model.booster for h, model in models.items() if model.booster is not None}
    with tempfile.TemporaryDirectory() as work:
        plot = Path(work) / "importance.png"
        _plot_importance({head.name: booster for head, booster in boosters.items()}, plot)
        mlflow.log_artifact(str(plot))
    uris: dict[Head, str] = {}
    for head, booster in boosters.items():
        info = mlflow.lightgbm.log_model(
            booster,
            name=head.name,
            pip_requirements=_REQUIREMENTS,
            metadata={"head": head.name},
        )
        uris[head] = info.model_uri
    if not uris:
        return "baseline", None
    last = sorted(uris, key=lambda head: head.recurring)[-1]  # stable: the last one stays last
    return last.name, uris[last]


def _register(
    client: MlflowClient, group: str, model_uri: str | None, run_id: str, tags: Mapping[str, str]
) -> str:
    import mlflow

    name = REGISTERED[group]
    tags = {**tags, "mlflow_run": run_id}
    with redirect_stderr(io.StringIO()):  # it reports on standard error, whatever its log level
        if model_uri is not None:
            version = mlflow.register_model(model_uri, name, tags=tags)
        else:  # nothing that MLflow could load: the version is the group's files
            with suppress(mlflow.MlflowException):  # it exists, or the next call says what is wrong
                client.create_registered_model(name)
            source = f"{client.get_run(run_id).info.artifact_uri}/{BUNDLE}"
            version = client.create_model_version(name, source, run_id, tags=tags)
    return str(version.version)


def _plot_importance(boosters: Mapping[str, lightgbm.Booster], path: Path) -> None:
    """The fifteen features with most gain, per model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5 * max(1, len(boosters))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(1, len(boosters)), squeeze=False)[:, 0]
    if not boosters:
        panels[0].set_title("too few rows: baselines only")
    for panel, (name, booster) in zip(panels, boosters.items(), strict=False):
        gains = booster.feature_importance(importance_type="gain")
        ranked = sorted(zip(gains, booster.feature_name(), strict=True))[-15:]
        panel.barh([n for _, n in ranked], [g for g, _ in ranked])
        panel.set_title(name)
        panel.set_xlabel("gain")
    figure.savefig(path, dpi=90)


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow and Alembic tell much that a scheduled job's log should not carry."""
    names = ("mlflow", "alembic", "mlflow.utils.environment", "mlflow.store.db.utils")
    before = {name: logging.getLogger(name).level for name in names}
    environment = {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    kept = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow  # noqa: F401 - sets its loggers up, so before they are turned down

            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        for key, value in kept.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
