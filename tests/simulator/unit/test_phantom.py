from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.simulator import other_films, phantom
from adapters.simulator.contact_sheet import MAX_BYTES, contact_sheet
from adapters.simulator.raster import Field, Sheet, blur, ellipsoid_profile, fractal_noise, make_grid, smoothstep, spline_path
from adapters.simulator.sites import SITES
from pipeline.domain import FINDINGS
from tests.builders import peers

SMALL = (200, 200)  # just large enough not to be made twice as large and averaged


def region(film: Field, rows: tuple[float, float], columns: tuple[float, float]) -> float:
    height, width = film.shape
    part = film[int(rows[0] * height) : int(rows[1] * height), int(columns[0] * width) : int(columns[1] * width)]
    return float(part.mean())


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_a_frontal_film_is_float32_between_0_and_1_with_dark_lungs_beside_a_bright_heart(view: str) -> None:
    for seed in range(4):
        film = phantom.take_frontal(seed, view=view, size=SMALL).pixels
        assert film.dtype == np.float32
        assert film.shape == SMALL
        assert 0 <= film.min() <= film.max() <= 1
        right_lung, heart = region(film, (0.4, 0.55), (0.25, 0.35)), region(film, (0.55, 0.65), (0.48, 0.58))
        left_lung, abdomen = region(film, (0.3, 0.45), (0.65, 0.75)), region(film, (0.85, 0.95), (0.3, 0.7))
        assert max(right_lung, left_lung) + 0.2 < min(heart, abdomen)


def test_rows_and_columns_may_differ() -> None:
    assert phantom.take_frontal(1, size=(200, 160)).pixels.shape == (200, 160)


def test_a_seed_determines_film_and_person() -> None:
    one, again, other = (phantom.take_frontal(seed, size=SMALL) for seed in (3, 3, 4))
    assert np.array_equal(one.pixels, again.pixels)
    assert one.body == again.body
    assert one.body != other.body
    assert np.abs(one.pixels - other.pixels).mean() > 0.02


def test_a_person_has_the_same_body_on_two_films() -> None:
    first = phantom.take_frontal(1, size=SMALL)
    second = phantom.take_frontal(2, body=first.body, size=SMALL)
    stranger = phantom.take_frontal(2, size=SMALL)
    assert second.body == first.body != stranger.body
    assert not np.array_equal(second.pixels, first.pixels)


@cache
def healthy(seed: int, site: str, view: str) -> phantom.SimulatedFilm:
    return phantom.take_frontal(seed, view=view, size=SMALL, site=SITES[site])


def shown(finding: str, extent: float, *, seed: int, site: str = "north", view: str = "PA") -> tuple[float, float]:
    """Return the largest change of the film by a finding, and the grain of the film."""
    without = healthy(seed, site, view)
    film = phantom.take_frontal(seed, body=without.body, view=view, findings={finding: extent}, size=SMALL, site=SITES[site])
    assert film.findings == {finding: extent}
    difference = np.abs(blur(film.pixels, 1.5) - blur(without.pixels, 1.5))
    grains = np.abs(without.pixels - blur(without.pixels, 1.0))
    return float(np.sort(difference.ravel())[-60]), float(np.median(grains))


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_visibility_of_every_finding_grows_with_its_extent(finding: str) -> None:
    slight, gross = (sum(shown(finding, extent, seed=seed)[0] for seed in range(3)) for extent in (0.2, 1.0))
    assert gross > slight > 0.003


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_is_visible_at_every_site(finding: str, site: str) -> None:
    signal, noise = shown(finding, 0.6, seed=1, site=site, view="AP")
    assert signal > 2 * noise
    assert signal > 0.01


def test_a_pneumothorax_darkens_and_an_effusion_whitens() -> None:
    darker = lighter = 0.0
    for seed in range(4):
        without = phantom.take_frontal(seed, size=SMALL).pixels
        darker += float((phantom.take_frontal(seed, findings={"Pneumothorax": 1.0}, size=SMALL).pixels - without).min())
        lighter += float((phantom.take_frontal(seed, findings={"Effusion": 0.8}, size=SMALL).pixels - without).mean())
    assert darker < -0.05
    assert lighter > 0.02


def test_several_findings_can_be_combined() -> None:
    both = phantom.take_frontal(1, findings={"Effusion": 0.7, "Cardiomegaly": 0.8}, size=SMALL).pixels
    one = phantom.take_frontal(1, findings={"Cardiomegaly": 0.8}, size=SMALL).pixels
    assert both.mean() > one.mean()


def test_an_unknown_finding_is_refused() -> None:
    with pytest.raises(KeyError):
        phantom.take_frontal(1, findings={"Gout": 1.0}, size=SMALL)


def test_a_finding_keeps_its_position_on_the_next_film_of_the_person() -> None:
    body = phantom.take_frontal(5, size=SMALL).body
    places = []
    for seed in (20, 21):
        without, film = (
            phantom.take_frontal(seed, body=body, findings=present, size=SMALL).pixels for present in ({}, {"Mass": 0.6})
        )
        places.append(divmod(int(np.argmax(blur(film - without, 4))), SMALL[1]))
    (row, column), (later_row, later_column) = places
    assert max(abs(row - later_row), abs(column - later_column)) < 0.12 * SMALL[0]


def test_a_film_at_two_sizes_is_the_same_picture() -> None:
    findings = {"Infiltration": 0.6, "Effusion": 0.4}
    large, small = (phantom.take_frontal(9, findings=findings, size=size).pixels for size in ((384, 384), (96, 96)))
    shrunk = large.reshape(96, 4, 96, 4).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.985
    assert np.abs(shrunk.std() - small.std()) < 0.02


def test_films_of_different_sites_are_distinguishable() -> None:
    def look(site: str, seed: int) -> Field:
        pixels = phantom.take_frontal(
            seed, body=phantom.take_frontal(seed, size=(16, 16)).body, size=(96, 96), site=SITES[site]
        ).pixels
        fine = pixels - blur(pixels, 1.0)
        lungs = pixels[30:55, 20:38]
        return np.array([pixels.mean(), pixels.std(), fine[20:80, 20:80].std(), lungs.mean(), lungs.std()])

    known = {site: np.mean([look(site, seed) for seed in range(6)], axis=0) for site in SITES}
    spread = np.std(list(known.values()), axis=0)
    right = 0
    for site in SITES:
        for seed in range(6, 9):
            own = look(site, seed)
            right += min(known, key=lambda name: float(np.square((known[name] - own) / spread).sum())) == site
    assert right >= 9  # of 15; 3 by chance


def test_markers_and_devices_are_visible_and_follow_the_site() -> None:
    exposures = [phantom.take_frontal(seed, view="AP", size=(16, 16), site=SITES["west"]).exposure for seed in range(40)]
    marked = [taken for taken in exposures if taken.marker is not None]
    assert len(marked) > 30
    assert all(taken.marker is SITES["west"].marker for taken in marked)
    assert {"leads", "central line", "endotracheal tube", "gastric tube"} <= {name for taken in exposures for name in taken.devices}
    drained = [phantom.take_frontal(seed, findings={"Pneumothorax": 0.5}, size=(16, 16)).exposure.devices for seed in range(40)]
    assert 5 < sum("chest drain" in devices for devices in drained) < 30


def test_portable_films_have_more_scatter() -> None:
    for seed in range(3):
        scatter = {view: phantom.take_frontal(seed, view=view, size=(32, 32)).exposure.scatter for view in ("PA", "AP")}
        assert scatter["AP"] > scatter["PA"]


def test_a_phantom_is_nearer_to_real_frontal_films_than_a_lateral_or_a_knee() -> None:
    folder = peers.shared("nih-sample/images")
    real = np.mean([_grey(path) for path in sorted(folder.iterdir())[:60]], axis=0)

    def likeness(film: Field) -> float:
        return float(np.corrcoef(film.ravel(), real.ravel())[0, 1])

    frontal = min(likeness(phantom.take_frontal(seed, size=SMALL).pixels) for seed in range(6))
    others = max(likeness(make(seed, size=SMALL).pixels) for make in (other_films.lateral, other_films.knee) for seed in range(3))
    assert frontal > 0.55
    assert frontal > others


def _grey(path: object) -> Field:
    with Image.open(str(path)) as picture:
        return np.asarray(picture.convert("L").resize(SMALL), dtype=np.float32) / 255


@pytest.mark.parametrize("view", other_films.OTHER_REGION_FILMS)
def test_films_of_other_regions_are_valid(view: str) -> None:
    for site in ("north", "west"):
        film = other_films.OTHER_REGION_FILMS[view](3, size=SMALL, site=SITES[site])
        assert film.pixels.shape == SMALL
        assert 0 <= film.pixels.min() < 0.1
        assert 0.5 < film.pixels.max() <= 1
        assert film.body is None


def test_narrow_and_wide_blur_are_gaussian() -> None:
    point = np.zeros((129, 129), dtype=np.float32)
    point[64, 64] = 1
    for sigma in (1.0, 3.0, 9.0):
        spread = blur(point, sigma)
        rows = np.arange(129) - 64
        assert spread.sum() == pytest.approx(1, rel=0.02)
        assert np.sqrt((spread.sum(axis=1) * rows**2).sum()) == pytest.approx(sigma, rel=0.1)


def test_fractal_noise_has_unit_deviation_at_every_resolution() -> None:
    fine, coarse = (fractal_noise(make_grid(n, n, 38.0), np.random.default_rng(4), size=6.0, octaves=3) for n in (256, 128))
    assert abs(float(fine.mean())) < 0.4
    assert 0.6 < fine.std() < 1.4
    assert np.corrcoef(fine.reshape(128, 2, 128, 2).mean(axis=(1, 3)).ravel(), coarse.ravel())[0, 1] > 0.99


def test_a_ribbon_has_the_expected_volume_and_is_thicker_along_the_beam() -> None:
    at = make_grid(256, 256, 38.0)
    flat = Sheet(at)
    flat.add_ribbon(spline_path([(-5.0, 19.0), (5.0, 19.0)]), 0.5, np.ones_like, 2.0)
    assert float(flat.render().sum()) * at.spacing**2 == pytest.approx(10.0 * 1.0 * 2.0, rel=0.03)
    assert float(flat.render()[:, 128].max()) == pytest.approx(2.0, rel=0.15)
    deep = Sheet(at)
    path = np.array([[x, 19.0, x] for x in np.linspace(-5, 5, 20)], dtype=np.float32)
    deep.add_ribbon(path, 0.5, np.ones_like, 2.0)
    assert float(deep.render().sum()) == pytest.approx(float(flat.render().sum()) * np.sqrt(2), rel=0.03)


def test_plates_and_ribbons_add_up() -> None:
    at = make_grid(64, 64, 38.0)
    sheet = Sheet(at)
    sheet.add(smoothstep(5 - sheet.distance(0, 19), 0.5))
    sheet.add_ribbon(spline_path([(-8.0, 19.0), (8.0, 19.0)]), 1.0, ellipsoid_profile, 3.0)
    assert float(sheet.render().max()) > 3
    assert Sheet(at).render().max() == 0


def test_the_contact_sheet_shows_every_finding_within_its_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "phantoms.png"
    contact_sheet(path, site="west", seed=2)
    assert path.stat().st_size <= MAX_BYTES
    with Image.open(path) as picture:
        assert picture.width > 1000
        assert picture.height > 1000
        grey = np.asarray(picture.convert("L"), dtype=np.float32)
    tiles = {grey[y : y + 200, x : x + 200].tobytes() for y in range(22, 1000, 222) for x in range(4, 1100, 204)}
    assert len(tiles) == 30


@pytest.mark.parametrize("finding", ["Mass", "Effusion", "Cardiomegaly"])
def test_a_located_finding_is_where_the_film_differs(finding: str) -> None:
    """Of two findings in one film the mask shows one; most of the change that it makes in the film lies on its mask."""
    present = {finding: 0.9, "Hernia": 0.5}
    located = phantom.take_located(5, finding, findings=present, size=(224, 224))
    without = phantom.take_frontal(5, findings={"Hernia": 0.5}, size=(224, 224))
    change = np.abs(located.film.pixels - without.pixels)
    assert located.mask.shape == located.lungs.shape == (224, 224)
    assert 0.002 < located.mask.mean() < 0.25
    assert change[located.mask].mean() > 1.5 * change[~located.mask].mean()  # the detector levels the whole film
    assert (located.lungs >= 0).all()
    assert 0.1 < located.lungs.mean() < 0.5
