"""Folder in the format of ChestX-ray14 with synthetic pictures: a square at a distinct position for each finding."""

from __future__ import annotations

import gzip
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapters.datasets.nih import NO_FINDING
from pipeline.domain import FINDINGS

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
MODES = ("L", "RGBA", "I;16", "P")
EDGE = 48


def picture(findings: Sequence[str], *, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64 [EDGE, EDGE] in 0..1."""
    grey = np.random.default_rng(seed).uniform(0.2, 0.4, (EDGE, EDGE))
    for finding in findings:
        row, column = divmod(FINDINGS.index(finding), 4)
        grey[4 + 10 * row : 12 + 10 * row, 4 + 10 * column : 12 + 10 * column] += 0.4
    return np.clip(grey, 0, 1)


def save(path: Path, grey: np.ndarray[tuple[int, int], np.dtype[np.float64]], mode: str = "L") -> None:
    """Write a PNG of that mode: 8 bit, 16 bit, palette, or colour with alpha."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        Image.fromarray(np.rint(grey * 65535).astype(np.uint16)).save(path)
    else:
        Image.fromarray(np.rint(grey * 255).astype(np.uint8)).convert(mode).save(path)


def shown(number: int, count: int) -> list[str]:
    """Return the findings of patient `number`: every third is normal, the others have one or two, all findings in turn."""
    if number % 3 == 0:
        return []
    first = number % len(FINDINGS)
    return [FINDINGS[first]] + ([FINDINGS[(first + 5) % len(FINDINGS)]] if number % 4 == 1 else [])


def collection(
    folder: Path,
    patients: int,
    *,
    modes: Sequence[str] = ("L",),
    packed: bool = False,
    lists: bool = True,
    show: Callable[[int], list[str]] | None = None,
) -> Path:
    """Write `patients` films of as many patients, in two sub-folders; every second patient is on the test list.

    `show`: findings of each patient, instead of `shown`.
    """
    lines = [HEADER]
    pool: list[str] = []
    test: list[str] = []
    for number in range(1, patients + 1):
        findings, name = show(number) if show else shown(number, patients), f"{number:08d}_000.png"
        save(folder / f"images_{number % 2:03d}" / "images" / name, picture(findings, seed=number), modes[number % len(modes)])
        age, sex, view = 20 + number % 60, "MF"[number % 2], ("PA", "AP")[number // 2 % 2]
        lines.append(f"{name},{'|'.join(findings) or NO_FINDING},0,{number},{age},{sex},{view},2500,2048,0.168,0.168")
        (test if number % 2 else pool).append(name)
    text = ("\n".join(lines) + "\n").encode()
    if packed:
        (folder / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress(text))
    else:
        (folder / "Data_Entry_2017_v2020.csv").write_bytes(text)
    if lists:
        (folder / "train_val_list.txt").write_text("\n".join(pool) + "\n")
        (folder / "test_list.txt").write_text("\n".join(test) + "\n")
    return folder


def kill_own_process(image: npt.NDArray[np.float32]) -> None:
    """End this process as a system without memory does. For processes alone that a test has started."""
    os.kill(os.getpid(), signal.SIGKILL)
