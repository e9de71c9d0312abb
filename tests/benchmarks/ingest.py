"""Rate of receiving films: `python -m tests.benchmarks.ingest [--films 300] [--large 60] [--rounds 3] [--only NAME] [--json]`.

The real listener (`radclipd listen`, durable and catalogued, as many processes as shipped) against dcmtk's `storescp`, single and
`--fork`, and a real Orthanc as `deploy/orthanc` sets it up, all on the loopback and on the same disk. The sender is dcmtk's
`storescu` for all; each association is a storescu of its own. In every round each receiver starts with an empty folder, takes a
film to warm up, and is measured. The peers answer in two small writes, of which TCP holds back the second until the sender's
delayed acknowledgement of the first (40 ms on Linux): most of their time with small films, with any sender.
`cpu_milliseconds_a_film` is the CPU time of a receiver's processes, which excludes this delay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.demo.loopback import LOOPBACK, free_ports
from adapters.demo.orthanc import OrthancServer
from tests.benchmarks.films import ratio
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders.dicom_files import dx, file_of
from tests.builders.installation import Installation, wait_for
from tests.builders.peers import require

SMALL, LARGE = (1024, 1024), (2560, 2048)
"""Rows and columns of two bytes: 2 and 10 megabytes."""
MEGABYTE = 1 << 20
CALLING, CALLED = "ORTHANC", "RADCLIPD"
SYNCED = {"SyncStorageArea": True}
"""Orthanc's own default, which a hospital runs; the scratch archive of the tests leaves it out."""
MEMORY_ASSOCIATIONS = 8
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Receiver:
    """A receiver of films at `port`, with its process."""

    port: int
    pid: int


@dataclass(frozen=True)
class Row:
    """One ratio: load, number of parallel associations, and compared receiver."""

    films: str
    associations: int
    peer: str


ROWS: Mapping[str, Row] = {
    "vs_storescp_2mb_1assoc": Row("small", 1, "storescp"),
    "vs_orthanc_2mb_1assoc": Row("small", 1, "orthanc"),
    "vs_storescp_fork_10mb_1assoc": Row("large", 1, "storescp_fork"),
    "vs_orthanc_10mb_1assoc": Row("large", 1, "orthanc"),
    "vs_storescp_fork_2mb_4assoc": Row("small", 4, "storescp_fork"),
}


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=300, help="films of 2 megabytes")
    parser.add_argument("--large", type=int, default=60, help="films of 10 megabytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, help="[listener] processes; default: as shipped")
    parser.add_argument("--only", choices=[*ROWS, "memory"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    listener = {"processes": options.processes} if options.processes else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), {"small": options.films, "large": options.large}, listener)
        rows = {name: row for name, row in ROWS.items() if options.only in (None, name)}
        measured = bench.measure(rows, options.rounds)
        if options.only in (None, "memory"):
            measured["listener_memory_mb"] = bench.memory()
    return format_result(measured, as_json=options.json)


class Bench:
    """Films on disk, and the receivers."""

    def __init__(self, folder: Path, films: Mapping[str, int], listener: Mapping[str, Any]) -> None:
        self._folder, self._listener = folder, dict(listener)
        self._sender = require("storescu", "dcmtk")
        self._films = {
            "small": _films(folder / "small", films["small"], SMALL),
            "large": _films(folder / "large", films["large"], LARGE),
        }
        self._receivers: dict[str, Callable[[Path], AbstractContextManager[Receiver]]] = {
            "radclipd": self._radclipd,
            "storescp": lambda at: _storescp(at, "--single-process"),
            "storescp_fork": lambda at: _storescp(at, "--fork"),
            "orthanc": _orthanc,
        }

    def measure(self, rows: Mapping[str, Row], rounds: int) -> dict[str, Any]:
        """Return the ratios, and milliseconds and CPU milliseconds a film of each receiver; shared loads are sent once."""
        loads: dict[tuple[str, int], list[str]] = {}
        for row in rows.values():
            loads.setdefault((row.films, row.associations), ["radclipd"]).append(row.peer)
        seconds: dict[tuple[str, int, str], list[float]] = {}
        cpu: dict[tuple[str, int, str], list[float]] = {}
        for _ in range(rounds):
            for (films, associations), names in loads.items():
                for name in names:
                    took, used = self._turn(name, self._films[films], associations)
                    seconds.setdefault((films, associations, name), []).append(took)
                    cpu.setdefault((films, associations, name), []).append(used)
        return {
            "ratios": {
                name: ratio(seconds[row.films, row.associations, row.peer], seconds[row.films, row.associations, "radclipd"])
                for name, row in rows.items()
            },
            "milliseconds_a_film": self._a_film(seconds),
            "cpu_milliseconds_a_film": self._a_film(cpu),
        }

    def _a_film(self, spent: Mapping[tuple[str, int, str], list[float]]) -> dict[str, float]:
        return {
            f"{name}_{films}_{associations}assoc": round(statistics.median(values) * 1000 / len(self._films[films]), 2)
            for (films, associations, name), values in spent.items()
        }

    def _turn(self, name: str, films: list[Path], associations: int) -> tuple[float, float]:
        """Send the films to one receiver; return wall seconds and CPU seconds."""
        at = self._folder / name
        at.mkdir()
        try:
            with self._receivers[name](at) as receiver:
                self._send(receiver.port, [films[-1:]])
                begun, used = time.perf_counter(), cpu_seconds(receiver.pid)
                self._send(receiver.port, [films[:-1][n::associations] for n in range(associations)])
                return time.perf_counter() - begun, cpu_seconds(receiver.pid) - used
        finally:
            shutil.rmtree(at)

    def _send(self, port: int, loads: list[list[Path]]) -> None:
        command = [self._sender, "-aet", CALLING, "-aec", CALLED, LOOPBACK, str(port)]
        senders = [subprocess.Popen([*command, *load], stderr=subprocess.DEVNULL) for load in loads]
        if any([sender.wait() for sender in senders]):
            raise SystemExit("a film was refused")

    @contextmanager
    def _radclipd(self, at: Path) -> Iterator[Receiver]:
        place = Installation(at, listener=self._listener)
        place.run("db", "upgrade")
        with place.running("listen") as process:
            yield Receiver(place.port, process.pid)

    def memory(self) -> float:
        """Return the most memory that the listener's processes had together while 8 associations pushed films of 10 megabytes."""
        at = self._folder / "memory"
        at.mkdir()
        films = self._films["large"]
        with self._radclipd(at) as receiver, peak_memory(receiver.pid) as peak:
            self._send(receiver.port, [films[n::MEMORY_ASSOCIATIONS] for n in range(MEMORY_ASSOCIATIONS)])
        shutil.rmtree(at)
        return round(max(peak) / MEGABYTE, 1)


def _films(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write films, each of a study of its own, and one more to warm up."""
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(count + 1)]
    for path in paths:
        path.write_bytes(file_of(dx(rows=size[0], columns=size[1])))
    return paths


@contextmanager
def _storescp(at: Path, mode: str) -> Iterator[Receiver]:
    (port,) = free_ports(1)
    program = require("storescp", "dcmtk")
    process = subprocess.Popen([program, mode, "-od", str(at), str(port)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port), 10)
        yield Receiver(port, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    """Return whether the port is open, without connecting: storescp would serve the connection."""
    return any(line.split()[1].endswith(f":{port:04X}") for line in Path("/proc/net/tcp").read_text().splitlines()[1:])


@contextmanager
def _orthanc(at: Path) -> Iterator[Receiver]:
    (nobody,) = free_ports(1)
    with OrthancServer(at, radclipd_port=nobody, forward=False, overrides=SYNCED) as orthanc:
        assert orthanc.pid is not None
        yield Receiver(orthanc.dicom_port, orthanc.pid)


def processes_of(pid: int) -> list[int]:
    """Return the process and those below it."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            waiting += [int(child) for child in _read(children).split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, those below it and those that ended there."""
    fields = [_read(Path(f"/proc/{one}/stat")).rpartition(")")[2].split() for one in processes_of(pid)]
    return sum(int(ticks) for one in fields for ticks in one[11:15]) / os.sysconf("SC_CLK_TCK")


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Sample the memory (proportional set size, bytes) of a process and those below it while the block lasts."""
    sizes, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            sizes.append(sum(_proportional(one) for one in processes_of(pid)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _proportional(pid: int) -> int:
    sizes = [line.split()[1] for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines() if line.startswith("Pss:")]
    return int(sizes[0]) * 1024 if sizes else 0


def _read(path: Path) -> str:
    """Read a file of proc(5); the process may end meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    main()
