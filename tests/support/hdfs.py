"""HDFS on loopback: one name node and some data nodes, each a process that can be killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import BUILD, free_port

JARS = BUILD / "stores"
"""Where `make test-stores` puts Hadoop's jars."""
_PACKAGE = "org.apache.hadoop.hdfs.server"


@dataclass(frozen=True)
class Hdfs:
    uri: str
    conf: Path
    data_nodes: list[subprocess.Popen[bytes]]

    def shell(self, *arguments: str) -> str:
        """What ``hdfs dfs ARGUMENTS`` prints; raises ``CalledProcessError`` when it fails."""
        command = _java(self.conf, "org.apache.hadoop.fs.FsShell", *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _java(conf: Path, main: str, *arguments: str) -> list[str]:
    return ["java", "-Xmx256m", "-cp", f"{conf}:{JARS}/*", main, *arguments]


def _configured(folder: Path, port: int, own: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True)
    here = "127.0.0.1:0"
    properties = {
        "fs.defaultFS": f"hdfs://127.0.0.1:{port}",
        "dfs.replication": "2",
        "dfs.namenode.http-address": here,
        "dfs.datanode.address": here,
        "dfs.datanode.ipc.address": here,
        "dfs.datanode.http.address": here,
        **own,
    }
    rows = [
        f"<property><name>{k}</name><value>{v}</value></property>" for k, v in properties.items()
    ]
    text = f"<configuration>{''.join(rows)}</configuration>"
    for name in ("core-site.xml", "hdfs-site.xml"):
        (folder / name).write_text(text)
    return folder


@contextmanager
def running(folder: Path, data_nodes: int = 3, timeout_s: float = 120) -> Iterator[Hdfs]:
    """A cluster that keeps two replicas; raises ``TimeoutError`` when it does not come up."""
    port = free_port()
    names = {"dfs.namenode.name.dir": str(folder / "names")}
    conf = _configured(folder / "conf", port, names)
    main = f"{_PACKAGE}.namenode.NameNode"
    format_ = _java(conf, main, "-format", "-nonInteractive")
    subprocess.run(format_, check=True, capture_output=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "hdfs.log").open("wb") as log:
            commands = [_java(conf, main)]
            for number in range(data_nodes):
                own = {"dfs.datanode.data.dir": str(folder / f"data{number}")}
                where = _configured(folder / f"conf{number}", port, own)
                commands.append(_java(where, f"{_PACKAGE}.datanode.DataNode"))
            for command in commands:
                processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        found = Hdfs(f"hdfs://127.0.0.1:{port}", conf, processes[1:])
        _await(found, timeout_s)
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _await(hdfs: Hdfs, timeout_s: float) -> None:
    """Until a file can be written."""
    probe = hdfs.conf / "core-site.xml"
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            hdfs.shell("-put", "-f", str(probe), "/probe")
            return
        except subprocess.CalledProcessError as e:
            if time.monotonic() > deadline:
                raise TimeoutError(f"HDFS does not take a file: {e.stderr[-500:]}") from e
            time.sleep(1)
