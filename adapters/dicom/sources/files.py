"""DICOM files where they lie, read and not stored: a file, or each file of a folder tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from adapters.dicom.image import part10
from adapters.dicom.sources.folder import DICOMDIR, read_if_dicom
from pipeline.domain import Header
from pipeline.errors import PermanentError

PREFIX_AT = 128
"""Offset of the prefix DICM (PS3.10 7.1)."""


def list_files(path: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder tree in order of their names, without hidden files and DICOMDIRs.

    A folder that cannot be read is yielded, too: `read_header` then names the fault.
    """
    if not path.is_dir():
        yield path
        return
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files) if name != DICOMDIR and not name.startswith("."))
    yield from (Path(error.filename) for error in unreadable)


def read_header(path: Path) -> tuple[Header, bytes]:
    """Return header and content of a DICOM file (PS3.10). PermanentError where it is none or cannot be read."""
    try:
        with path.open("rb"):  # names what `read_if_dicom` takes for "another file"
            content = read_if_dicom(path)
    except OSError as error:
        raise PermanentError(f"cannot be read: {error.strerror}", hint="may this user read it?") from error
    if not content:
        raise PermanentError("is no DICOM file", hint="name DICOM files (PS3.10), or folders of them")
    if content[PREFIX_AT : PREFIX_AT + 4] != b"DICM":
        raise PermanentError("is a data set without the file meta information of PS3.10", hint="dcmconv makes a file of it")
    return part10.read_header(*part10.split_file(content)), content
