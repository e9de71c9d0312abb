"""The split of cases into training pool and test set: by patient, never by film.

Films of one patient resemble each other more than films of one finding do; a split by film measures the recognition of patients.
Both functions to split end in `check_split`, which refuses shared patients and takes films out of the pool whose pixels are also in
the test set: the same film may be filed under two patients.
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

    Raise SplitUnusable for a film on neither list or an empty side; SplitLeaks for shared patients.
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
    film stay together, unless this leaves a side empty: a blank film filed under everybody. Raise SplitUnusable for an empty side.
    """
    split = _split_rows(_hash_patients(cases, cases.pixel_sha256, seed) < test_share)
    if not len(split.pool) or not len(split.test):
        split = _split_rows(_hash_patients(cases, cases.key, seed) < test_share)
    return check_split(cases, split)


def check_split(cases: Cases, split: Split) -> Split:
    """Return the split, without the films of the pool whose pixels are in the test set.

    Raise SplitLeaks for a patient on both sides; SplitUnusable for an empty side.
    """
    _require_both_sides(split)
    patients, films = (_count_shared(names, split) for names in (cases.patient, cases.pixel_sha256))
    if patients:
        raise SplitLeaks(
            f"the pool and the test set share {patients} patients and {films} films with the same pixels",
            hint="split by patient: take the films of these patients off one of the sides",
        )
    shared = np.isin(cases.pixel_sha256[split.pool], cases.pixel_sha256[split.test])
    kept = Split(pool=split.pool[~shared], test=split.test, duplicates=split.pool[shared])
    _require_both_sides(kept)
    return kept


def _require_both_sides(split: Split) -> None:
    if not len(split.pool) or not len(split.test):
        raise SplitUnusable(
            f"the pool has {len(split.pool)} films and the test set {len(split.test)}: neither may be empty"
            + (f" ({len(split.duplicates)} films of the pool are in the test set, too)" if len(split.duplicates) else ""),
            hint="choose another share, or give more films",
        )


def _split_rows(in_test: npt.NDArray[np.bool_]) -> Split:
    return Split(pool=np.flatnonzero(~in_test), test=np.flatnonzero(in_test))


def _count_shared(names: npt.NDArray[np.str_], split: Split) -> int:
    return len(np.intersect1d(names[split.pool], names[split.test]))


def _hash_patients(cases: Cases, film_names: npt.NDArray[np.str_], seed: int) -> npt.NDArray[np.float64]:
    """Return [N] in 0..1: the smallest hash among the patients connected by films of the same name."""
    patients, patient = np.unique(cases.patient, return_inverse=True)
    films, film = np.unique(film_names, return_inverse=True)
    nodes = len(patients) + len(films)
    edges = coo_array((np.ones(len(cases)), (patient, len(patients) + film)), shape=(nodes, nodes))
    _, family = connected_components(edges, directed=False)
    least = np.ones(nodes)
    np.minimum.at(least, family[: len(patients)], [_hash_patient(name, seed) for name in patients])
    return np.asarray(least[family[patient]])


def _hash_patient(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES]) / 2.0 ** (8 * _HASH_BYTES)
