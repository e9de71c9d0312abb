from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from adapters.hospital import other_films, phantom
from adapters.hospital.raster import Field, blur
from pipeline.domain import FINDINGS
from tests import peers

SMALL = (192, 192)


def region(film: Field, rows: tuple[float, float], columns: tuple[float, float]) -> float:
    height, width = film.shape
    part = film[int(rows[0] * height) : int(rows[1] * height), int(columns[0] * width) : int(columns[1] * width)]
    return float(part.mean())


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_a_frontal_film_is_float32_between_0_and_1_with_dark_lungs_beside_a_bright_heart(view: str) -> None:
    for seed in range(4):
        film = phantom.frontal(seed, view=view, size=SMALL).pixels
        assert film.dtype == np.float32
        assert film.shape == SMALL
        assert 0 <= film.min() <= film.max() <= 1
        right_lung, heart = region(film, (0.4, 0.55), (0.25, 0.35)), region(film, (0.55, 0.65), (0.48, 0.58))
        left_lung, abdomen = region(film, (0.3, 0.45), (0.65, 0.75)), region(film, (0.85, 0.95), (0.3, 0.7))
        assert max(right_lung, left_lung) + 0.2 < min(heart, abdomen)


def test_rows_and_columns_may_differ() -> None:
    assert phantom.frontal(1, size=(200, 160)).pixels.shape == (200, 160)


def test_the_same_seed_gives_the_same_film_and_another_seed_another_person() -> None:
    one, again, other = (phantom.frontal(seed, size=SMALL) for seed in (3, 3, 4))
    assert np.array_equal(one.pixels, again.pixels)
    assert one.body == again.body
    assert one.body != other.body
    assert np.abs(one.pixels - other.pixels).mean() > 0.02


def test_one_person_on_two_films_keeps_the_body() -> None:
    first = phantom.frontal(1, size=SMALL)
    second = phantom.frontal(2, body=first.body, size=SMALL)
    stranger = phantom.frontal(2, size=SMALL)
    assert second.body == first.body != stranger.body
    assert not np.array_equal(second.pixels, first.pixels)


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_shows_more_the_more_there_is_of_it(finding: str) -> None:
    shown = {0.3: 0.0, 1.0: 0.0}
    for seed in range(3):
        without = blur(phantom.frontal(seed, size=SMALL).pixels, 1.5)
        for extent in shown:
            film = phantom.frontal(seed, findings={finding: extent}, size=SMALL)
            assert film.findings == {finding: extent}
            shown[extent] += float(np.square(blur(film.pixels, 1.5) - without).mean())
    assert shown[1.0] > shown[0.3] > 3e-6


def test_a_pneumothorax_darkens_and_an_effusion_whitens() -> None:
    darker = lighter = 0.0
    for seed in range(4):
        without = phantom.frontal(seed, size=SMALL).pixels
        darker += float((phantom.frontal(seed, findings={"Pneumothorax": 1.0}, size=SMALL).pixels - without).min())
        lighter += float((phantom.frontal(seed, findings={"Effusion": 0.8}, size=SMALL).pixels - without).mean())
    assert darker < -0.05
    assert lighter > 0.02


def test_findings_come_together() -> None:
    both = phantom.frontal(1, findings={"Effusion": 0.7, "Cardiomegaly": 0.8}, size=SMALL).pixels
    one = phantom.frontal(1, findings={"Cardiomegaly": 0.8}, size=SMALL).pixels
    assert both.mean() > one.mean()


def test_an_unknown_finding_is_refused() -> None:
    with pytest.raises(KeyError):
        phantom.frontal(1, findings={"Gout": 1.0}, size=SMALL)


def test_portable_films_are_foggier() -> None:
    for seed in range(3):
        scatter = {view: phantom.frontal(seed, view=view, size=(32, 32)).exposure.scatter for view in ("PA", "AP")}
        assert scatter["AP"] > scatter["PA"]


def test_a_phantom_is_nearer_to_real_frontal_films_than_a_lateral_or_a_knee() -> None:
    folder = peers.shared("nih-sample/images")
    real = np.mean([_grey(path) for path in sorted(folder.iterdir())[:60]], axis=0)

    def likeness(film: Field) -> float:
        return float(np.corrcoef(film.ravel(), real.ravel())[0, 1])

    frontal = min(likeness(phantom.frontal(seed, size=SMALL).pixels) for seed in range(6))
    others = max(likeness(make(seed, size=SMALL).pixels) for make in (other_films.lateral, other_films.knee) for seed in range(3))
    assert frontal > 0.55
    assert frontal > others


def _grey(path: object) -> Field:
    with Image.open(str(path)) as picture:
        return np.asarray(picture.convert("L").resize(SMALL), dtype=np.float32) / 255
