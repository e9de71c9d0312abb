"""What an archive of many films needs: disk, hours of cores and cards, hours on N machines. Prints the tables of docs/scale.md.

    python deploy/scale.py [--films 10000000] [--cores 16] [--nodes 1,4,16,64] [--gpu-films-per-second N] [--read-gigabytes 1]

Per-film costs are those of docs/scale.json, which `python -m tests.benchmarks.scale --json` measures; measure them on your own
machine and name the file with --measured. What is assumed and not measured is an option, and the tables say so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parent / "docs" / "scale.json"
HOUR, TERA, GIGA = 3600.0, 1e12, 1e9
LINK = 0.11
"""Gigabytes a second of a link of 1 Gbit/s, headers apart."""
GPU_TERAFLOPS = 20.0
"""Sustained by a card on a small ViT: assumed, and far below what data sheets promise. --gpu-films-per-second takes its place."""


def tables(measured: dict[str, Any], options: argparse.Namespace) -> str:
    """Return the tables as Markdown."""
    parts = [_per_film(measured, options), _disk(measured, options), _hours(measured, options), _nodes(measured, options)]
    return "\n\n".join(parts) + "\n"


def _per_film(measured: dict[str, Any], options: argparse.Namespace) -> str:
    seconds, size = measured["seconds"], measured["bytes"]
    rows = [
        ("file, 2560 x 2048, uncompressed", f"{size['film'] / 1e6:.1f} MB"),
        ("file, lossless JPEG 2000", f"{size['film_jpeg2000'] / 1e6:.1f} MB"),
        ("activations (`[activation_cache]`)", f"{size['activations'] / 1e3:.1f} kB"),
        *((f"catalog, {_named(name)}", f"{value / 1e3:.1f} kB") for name, value in sorted(measured["catalog_bytes"].items())),
        ("receive: header, hash, file, row", f"{1e3 * seconds['receive']:.0f} ms of a core"),
        ("decode, uncompressed", f"{1e3 * seconds['decode']:.0f} ms of a core"),
        ("decode, lossless JPEG 2000", f"{1e3 * seconds['decode_jpeg2000']:.0f} ms of a core"),
        ("encode on a CPU, and cache", f"{1e3 * seconds['encode']:.0f} ms of a core"),
        ("re-score from the activation cache", f"{1e3 * seconds['recall']:.1f} ms of a core"),
        ("operations of the encoder", f"{measured['gigaflop']:.1f} GFLOP"),
        _card(measured, options),
    ]
    return _table(("an image, the only one of its study", "costs"), rows)


def _card(measured: dict[str, Any], options: argparse.Namespace) -> tuple[str, str]:
    if options.gpu_films_per_second:
        return "encode on a GPU (given)", f"{1e3 / options.gpu_films_per_second:.2f} ms of a GPU"
    return (
        f"encode on a GPU (assumed: {GPU_TERAFLOPS:.0f} TFLOP/s sustained)",
        f"{1e3 * _gpu_seconds(measured, options):.2f} ms of a GPU",
    )


def _disk(measured: dict[str, Any], options: argparse.Namespace) -> str:
    size = measured["bytes"]
    rows = [
        ("images, uncompressed", size["film"]),
        ("images, lossless JPEG 2000", size["film_jpeg2000"]),
        ("activation cache", size["activations"]),
        *((f"catalog, {_named(name)}", value) for name, value in sorted(measured["catalog_bytes"].items())),
    ]
    sizes = [(name, _bytes(value * options.films)) for name, value in rows]
    return _table((f"disk for {options.films:,} images", "is"), sizes)


def _hours(measured: dict[str, Any], options: argparse.Namespace) -> str:
    seconds = measured["seconds"]
    steps = {
        "receive": seconds["receive"],
        "decode, uncompressed": seconds["decode"],
        "decode, lossless JPEG 2000": seconds["decode_jpeg2000"],
        "encode on CPUs": seconds["encode"],
        "re-score from the activation cache": seconds["recall"],
    }
    rows = [(name, f"{_number(cost * options.films / HOUR)} core-hours") for name, cost in steps.items()]
    rows.append(("encode on GPUs", f"{_number(_gpu_seconds(measured, options) * options.films / HOUR)} GPU-hours"))
    by_link, by_store = _bytes_hours(measured, options, LINK), _bytes_hours(measured, options, options.read_gigabytes)
    rows.append(("transfer of the images over a link of 1 Gbit/s", f"{_number(by_link)} hours"))
    rows.append((f"read them at {options.read_gigabytes:g} GB/s (assumed)", f"{_number(by_store)} hours"))
    return _table((f"work for {options.films:,} images", "is"), rows)


def _nodes(measured: dict[str, Any], options: argparse.Namespace) -> str:
    """Each machine decodes and encodes; the image store is read by all together, and cannot be read faster than it is."""
    seconds = {name: cost * options.films / HOUR for name, cost in measured["seconds"].items()}
    plain, packed = (_bytes_hours(measured, options, options.read_gigabytes, name) for name in ("film", "film_jpeg2000"))
    rows = []
    for nodes in options.nodes:
        cores = nodes * options.cores
        card = _gpu_seconds(measured, options) * options.films / HOUR / nodes
        hours = (
            _limited((seconds["decode"] + seconds["encode"]) / cores, plain),
            _limited((seconds["decode_jpeg2000"] + seconds["encode"]) / cores, packed),
            _limited(max(seconds["decode"] / cores, card), plain),
            _limited(max(seconds["decode_jpeg2000"] / cores, card), packed),
            _number(seconds["recall"] / cores),
        )
        rows.append((str(nodes), *hours))
    heads = (
        f"hours on machines of {options.cores} cores",
        "uncompressed",
        "JPEG 2000",
        "uncompressed, a GPU each",
        "JPEG 2000, a GPU each",
        "re-scoring, cached",
    )
    return _table(heads, rows)


def _limited(working: float, reading: float) -> str:
    return f"{_number(reading)} (image store)" if reading > working else _number(working)


def _gpu_seconds(measured: dict[str, Any], options: argparse.Namespace) -> float:
    if options.gpu_films_per_second:
        return 1 / float(options.gpu_films_per_second)
    return float(measured["gigaflop"]) / (1e3 * GPU_TERAFLOPS)


def _bytes_hours(measured: dict[str, Any], options: argparse.Namespace, gigabytes_a_second: float, name: str = "film") -> float:
    return float(measured["bytes"][name]) * int(options.films) / (GIGA * gigabytes_a_second) / HOUR


def _named(name: str) -> str:
    return {"catalog_sqlite": "SQLite", "catalog_postgresql": "PostgreSQL"}[name]


def _bytes(value: float) -> str:
    return f"{value / TERA:.1f} TB" if value >= TERA else f"{value / GIGA:.0f} GB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--films", type=int, default=10_000_000)
    made.add_argument("--cores", type=int, default=16, help="of a machine")
    made.add_argument("--nodes", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16, 64])
    made.add_argument("--gpu-films-per-second", type=float, default=0.0, help="of your encoder on your card")
    made.add_argument(
        "--read-gigabytes", type=float, default=1.0, help="a second, that the image store gives all machines together"
    )
    made.add_argument("--measured", type=Path, default=MEASURED)
    return made


def main() -> None:
    """Print the tables."""
    options = parser().parse_args()
    sys.stdout.write(tables(json.loads(options.measured.read_text()), options))


if __name__ == "__main__":
    main()
