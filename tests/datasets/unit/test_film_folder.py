from __future__ import annotations

from pathlib import Path

import pytest

from adapters.datasets import film_folder
from pipeline.errors import PermanentError
from tests.builders.dicom_files import deflated, dx


def test_a_deflated_film_is_read_and_a_deflate_bomb_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, bomb = dx(Modality="DX", StudyInstanceUID="1.2"), dx(Modality="DX", StudyInstanceUID="1.3")
    bomb.PixelData = bytes(4 << 20)
    (tmp_path / "film.dcm").write_bytes(deflated(film))
    (tmp_path / "bomb.dcm").write_bytes(deflated(bomb))
    (tmp_path / "bare.dcm").write_bytes(deflated(bomb)[132:])
    monkeypatch.setattr(film_folder, "MAX_INFLATED_BYTES", 1 << 20)
    films, skipped = film_folder.read_film_folder(tmp_path)
    assert len(films) == 1
    assert [(file.path.name, file.reason.split()[0]) for file in skipped] == [("bare.dcm", "deflated,"), ("bomb.dcm", "the")]
    assert "inflates to more than" in skipped[1].reason
    (tmp_path / "film.dcm").unlink()
    with pytest.raises(PermanentError, match="no film among the 2 files"):
        film_folder.read_film_folder(tmp_path)
