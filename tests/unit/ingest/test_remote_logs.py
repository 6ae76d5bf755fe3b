"""What a task makes of the pieces of logs that it is given, and the order of a log's files."""

from __future__ import annotations

from pathlib import Path

from phoebe_spark.ingest.remote_logs import RemoteFile, _copied, _in_order, _logs_of

ROLLING = "s3a://b/logs/eventlog_v2_app"


def frames(*parts: tuple[str, str]) -> list[bytes]:
    return [kind.encode() + text.encode() for kind, text in parts]


def test_files_become_logs_by_their_directories(tmp_path: Path) -> None:
    files = [
        RemoteFile(f"{ROLLING}/events_1_app", ROLLING, 1_000),
        RemoteFile("s3a://b/logs/one", "", 2_000),
        RemoteFile("s3a://b/other/one", "", 3_000),
        RemoteFile("s3a://b/spool/app.ndjson", "", 9_000),
        RemoteFile("s3a://b/spool/app-0123abcd.ndjson", "", 8_000),
    ]
    parts = [part for f in files for part in (("F", f.uri), ("D", f.uri[:5]), ("D", f.uri[5:]))]
    sources, failed = _copied(frames(*parts), {f.uri: f for f in files}, tmp_path)
    assert failed == {}
    by_name = {source.name: source for source in sources}
    assert set(by_name) == {ROLLING, "s3a://b/logs/one", "s3a://b/other/one",
                            "s3a://b/spool/app-0123abcd.ndjson"}  # fmt: skip
    assert by_name["s3a://b/other/one"].path.read_text() == "s3a://b/other/one"
    spool = by_name["s3a://b/spool/app-0123abcd.ndjson"]
    assert [f.name for f in spool.files] == ["app-0123abcd.ndjson", "app.ndjson"], "by their times"


def test_a_log_of_which_a_file_cannot_be_read_is_left_out_whole(tmp_path: Path) -> None:
    files = {
        uri: RemoteFile(uri, "", number)
        for number, uri in enumerate(("s3a://b/app.ndjson", "s3a://b/app-0123abcd.ndjson"))
    }
    told = frames(*(("F", uri) for uri in files)) + frames(("E", "IOException: gone\n\tat x"))
    sources, failed = _copied(told, files, tmp_path)
    assert sources == []
    assert failed == {"s3a://b/app-0123abcd.ndjson": "IOException: gone"}


def test_rolled_files_come_in_their_order_and_nothing_else() -> None:
    names = ["appstatus_app", "events_10_app", "events_1_app", "events_2_app.compact"]
    files = [RemoteFile(f"{ROLLING}/{name}", ROLLING, 0) for name in names]
    assert [f.uri.rsplit("/", 1)[1] for f in _in_order(files)] == [
        "events_2_app.compact",
        "events_10_app",
    ]


def test_parts_are_put_together_as_they_are_from_a_disk(tmp_path: Path) -> None:
    """Databricks' files of one folder, a rolled log elsewhere than in its own directory, and what
    tells whether it is whole."""
    cluster, moved = "dbfs:/logs/0615-1/eventlog/7", "s3a://b/copied"
    uris = [
        f"{cluster}/eventlog",
        f"{cluster}/eventlog-2021-06-15--15-00.gz",
        f"{cluster}/eventlog-2021-06-15--16-00.gz",
        f"{moved}/app-9",
        f"{moved}/appstatus_app-7",
        f"{moved}/events_1_app-7",
        f"{moved}/events_3_app-7",
        f"{moved}/events_1_app-8",
        f"{moved}/events_2_app-8",
    ]
    logs = _logs_of(RemoteFile(uri, "", n) for n, uri in enumerate(uris))
    assert [[f.uri.rpartition("/")[2] for f in log] for log in logs] == [
        ["eventlog-2021-06-15--15-00.gz", "eventlog-2021-06-15--16-00.gz", "eventlog"],
        ["app-9"],
        ["events_1_app-7", "events_3_app-7", "appstatus_app-7"],
        ["events_1_app-8", "events_2_app-8"],
    ]
    names = [cluster, f"{moved}/app-9", f"{moved}/events_1_app-7", f"{moved}/events_1_app-8"]
    assert [log[0].log for log in logs] == names
    assert {file.kind for log in logs for file in log} == {"eventlog"}
    for number, log in enumerate(logs):
        told = frames(*(("F", file.uri) for file in log))
        sources, failed = _copied(told, {f.uri: f for f in log}, tmp_path / str(number))
        assert (failed, [source.name for source in sources]) == ({}, [names[number]])
        (source,) = sources
        assert [p.name for p in source.files] == [
            f.uri.rpartition("/")[2] for f in log if "appstatus" not in f.uri
        ]
        assert (bool(source.missing), source.over) == (number == 2, number == 2)
