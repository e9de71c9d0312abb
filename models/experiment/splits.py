"""The split of cases into training pool and test set: by patient, never by film.

Films of one patient resemble each other more than films of one finding do; a split by film measures the recognition of patients.
Both functions to split end in `check_split`, which refuses shared patients and shared pixels: the same film may be filed under two
patients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.errors import SplitLeaks, SplitUnusable
from models.evaluation.cases import Cases, Split

_HASH_BYTES = 8  # bytes of the digest, read as a fraction


def split_by_lists(cases: Cases, pool: Collection[str], test: Collection[str]) -> Split:
    """Split by two lists of keys, such as ChestX-ray14's `train_val_list.txt` and `test_list.txt`. Lists may name absent films.

    Raise SplitUnusable for a film on neither list or an empty side; SplitLeaks for shared patients or films.
    """
    in_pool, in_test = (np.isin(cases.key, np.array(sorted(keys), dtype=np.str_)) for keys in (pool, test))
    if unlisted := int((~(in_pool | in_test)).sum()):
        raise SplitUnusable(
            f"{unlisted} of {len(cases)} films are on neither list", hint="give the lists that belong to this label table"
        )
    return check_split(cases, Split(pool=np.flatnonzero(in_pool), test=np.flatnonzero(in_test)))


def split_by_patient(cases: Cases, *, test_share: float, seed: int) -> Split:
    """Put about `test_share` (0..1) of the patients on the test side, each by the hash of the patient's name and `seed`.

    The side of a patient does not depend on the other patients, so films may be added without moving others. Patients with a shared
    film stay together. Raise SplitUnusable for an empty side.
    """
    return check_split(cases, _split_rows(_hash_patients(cases, seed) < test_share))


def check_split(cases: Cases, split: Split) -> Split:
    """Return the split. Raise SplitLeaks for a patient or a film on both sides; SplitUnusable for an empty side."""
    if not len(split.pool) or not len(split.test):
        raise SplitUnusable(
            f"the pool has {len(split.pool)} films and the test set {len(split.test)}: neither may be empty",
            hint="choose another share, or give more films",
        )
    patients, films = (_count_shared(names, split) for names in (cases.patient, cases.pixel_sha256))
    if patients or films:
        raise SplitLeaks(
            f"the pool and the test set share {patients} patients and {films} films with the same pixels",
            hint="split by patient, and take films that are filed under two patients out of one of the sides",
        )
    return split


def _split_rows(in_test: npt.NDArray[np.bool_]) -> Split:
    return Split(pool=np.flatnonzero(~in_test), test=np.flatnonzero(in_test))


def _count_shared(names: npt.NDArray[np.str_], split: Split) -> int:
    return len(np.intersect1d(names[split.pool], names[split.test]))


def _hash_patients(cases: Cases, seed: int) -> npt.NDArray[np.float64]:
    """Return [N] in 0..1: the smallest hash among the patients connected by shared films."""
    patients, patient = np.unique(cases.patient, return_inverse=True)
    films, film = np.unique(cases.pixel_sha256, return_inverse=True)
    nodes = len(patients) + len(films)
    edges = coo_array((np.ones(len(cases)), (patient, len(patients) + film)), shape=(nodes, nodes))
    _, family = connected_components(edges, directed=False)
    least = np.ones(nodes)
    np.minimum.at(least, family[: len(patients)], [_hash_patient(name, seed) for name in patients])
    return np.asarray(least[family[patient]])


def _hash_patient(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES]) / 2.0 ** (8 * _HASH_BYTES)
