"""The listener in a crowd: `python -m tests.benchmarks.crowd [--seconds 20] [--rate 10] [--silent 200] [--json]`.

The real listener (`radclipd listen`, as many processes as shipped) is beset by silent connections, and by short associations at a
rate, each accepted and released without a message. A good sender sends films of 2 megabytes meanwhile, each in an association of
its own: from its connection until its release. `threads` are the most of all processes of the listener together.

The ratio is of the target (2 s for the slowest film) to what was measured: above 1 holds. `alone` is the sender without a crowd.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from io import BytesIO
from pathlib import Path
from socket import create_connection
from typing import Any

from pydicom import dcmread
from pynetdicom import AE, build_context

from adapters.demo.loopback import LOOPBACK
from tests.benchmarks.ingest import CALLED, CALLING, SMALL, processes_of
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders.dicom_files import EXPLICIT, dx, file_of
from tests.builders.installation import Installation
from tests.builders.pdus import ACCEPTED, RELEASE_RQ, RawPeer, associate_rq

TARGET_SECONDS = 2.0
SAMPLE_SECONDS = 0.1
ALONE_FILMS = 5


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=10.0, help="short associations a second")
    parser.add_argument("--silent", type=int, default=200, help="connections that say nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Installation(Path(folder))
        place.run("db", "upgrade")
        with place.running("listen") as process:
            alone = [_send_film(place.port) for _ in range(ALONE_FILMS)]
            with _threads_of(process.pid) as threads, _crowd(place.port, options.rate, options.silent) as served:
                beset = list(_send_films(place.port, options.seconds))
    return format_result(summarise(alone, beset, max(threads), served), as_json=options.json)


def summarise(alone: list[float], beset: list[float], threads: int, served: list[bool]) -> dict[str, Any]:
    """Return the figures. `served`: whether each short association was accepted."""
    slowest, ratios = max(beset), [TARGET_SECONDS / seconds for seconds in sorted(beset)]
    return {
        "ratios": {
            "target_slowest_answer": {
                "min": round(TARGET_SECONDS / slowest, 2),
                "median": round(TARGET_SECONDS / slowest, 2),
                "max": round(ratios[0], 2),
            }
        },
        "seconds": {
            "alone_median": round(statistics.median(alone), 3),
            "beset_median": round(statistics.median(beset), 3),
            "beset_slowest": round(slowest, 3),
        },
        "films": len(beset),
        "short_associations": len(served),
        "short_associations_accepted": sum(served),
        "threads": threads,
    }


def _send_films(port: int, seconds: float) -> Iterator[float]:
    """Yield the seconds of each film."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        yield _send_film(port)


def _send_film(port: int) -> float:
    film = dcmread(BytesIO(file_of(dx(rows=SMALL[0], columns=SMALL[1]))))
    begun = time.monotonic()
    association = AE(CALLING).associate(LOOPBACK, port, contexts=[build_context(film.SOPClassUID, EXPLICIT)], ae_title=CALLED)
    if not association.is_established or association.send_c_store(film).get("Status") != 0:
        raise SystemExit("a film was refused")
    association.release()
    return time.monotonic() - begun


@contextmanager
def _crowd(port: int, rate: float, silent: int) -> Iterator[list[bool]]:
    """Beset the listener while the block lasts; yield whether each short association was accepted."""
    served: list[bool] = []
    over = threading.Event()

    def associate() -> None:
        with RawPeer(port, seconds=30) as peer:
            served.append(peer.associate(associate_rq(calling=CALLING.encode()))[0] == ACCEPTED)
            peer.write(RELEASE_RQ)

    def come_and_go() -> None:
        following = time.monotonic()
        running: list[threading.Thread] = []
        while not over.wait(max(0.0, following - time.monotonic())):
            following += 1 / rate
            running.append(threading.Thread(target=associate))
            running[-1].start()
        for thread in running:
            thread.join()

    crowd = threading.Thread(target=come_and_go)
    with ExitStack() as opened:
        for _ in range(silent):
            opened.enter_context(closing(create_connection((LOOPBACK, port))))
        crowd.start()
        try:
            yield served
        finally:
            over.set()
            crowd.join()


@contextmanager
def _threads_of(pid: int) -> Iterator[list[int]]:
    """Sample the number of threads of a process and those below it while the block lasts."""
    counts, over = [0], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            counts.append(sum(len(list(Path(f"/proc/{one}/task").glob("*"))) for one in processes_of(pid)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
