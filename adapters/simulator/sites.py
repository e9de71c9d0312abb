"""Hospitals of the simulator: appearance and technique of films, patients, and equipment of each.

A model trained on some sites meets a distribution shift at another: display curve, edge enhancement, scatter, borders, markers,
share of portable films and age of the patients differ; the appearance of findings does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Literal

from pydantic import ConfigDict, with_config

from models.fingerprint import fingerprint

Range = tuple[float, float]
"""Lowest and highest value; the value of a film is drawn uniformly between them."""

NATURAL_AP_SHARE = 0.40
"""Share of AP films in ChestX-ray14 (Wang et al., CVPR 2017)."""


@with_config(ConfigDict(extra="forbid"))  # of sites described in files
@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Side marker and text burnt into a film."""

    letter: Literal["L", "R"] = "L"  # side of the patient
    style: Literal["plain", "disc", "ring", "box"] = "plain"
    word: str = ""  # beside the letter
    portable_word: str = "PORTABLE"  # on AP films; "" for none
    height: float = 1.5  # cm
    brightness: Range = (0.85, 1.0)
    position: Literal["top", "side", "bottom"] = "top"


@with_config(ConfigDict(extra="forbid"))  # of sites described in files
@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEquipment:
    """Equipment attributes of the site's headers. Manufacturers are fictitious."""

    institution: str
    manufacturer: str
    dx_model: str
    cr_model: str
    software: str
    dx_bits: tuple[int, ...] = (12, 14)
    cr_bits: tuple[int, ...] = (12,)
    cr_share: float = 0.3  # of studies from cassette systems
    poor_share: float = 0.15  # of CR studies with an almost empty header
    sparse_share: float = 0.15  # of CR studies with these attributes empty:
    empty_attributes: tuple[str, ...] = ("ViewPosition", "PatientOrientation")
    inverted_share: float = 0.3  # MONOCHROME1


@with_config(ConfigDict(extra="forbid"))  # of sites described in files
@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One hospital: appearance of its films and practice of its radiographers. Lengths in cm on the detector."""

    name: str
    equipment: SiteEquipment
    ap_share: float = NATURAL_AP_SHARE
    age_offset: float = 0.0  # years, relative to the patients of ChestX-ray14
    scatter: Range = (0.08, 0.16)  # scattered share of the signal
    portable_scatter: Range = (0.22, 0.36)
    noise: Range = (0.006, 0.012)  # of the signal behind 14 cm of water, in a pixel of 0.074 cm
    portable_noise: Range = (0.014, 0.024)
    blur: Range = (0.030, 0.045)  # sigma of the detector
    edge_strength: Range = (0.35, 0.75)  # strength of edge enhancement
    edge_scale: Range = (0.8, 1.0)  # sigma of the subtracted blur
    curve: Literal["gamma", "sigmoid"] = "gamma"
    contrast: Range = (0.85, 0.95)  # the exponent of gamma, the steepness of sigmoid
    black: Range = (0.8, 1.2)  # cm of water shown black
    white: Range = (0.98, 1.06)  # relative to the thickest hundredth of the film
    zoom: Range = (1.0, 1.14)
    portable_zoom: Range = (1.04, 1.18)
    collimation_share: float = 0.35  # share of films with visible shutters
    shutter: Range = (0.2, 1.4)
    border: Literal["black", "white"] = "black"
    grid_lines: Range = (0.0, 0.0)  # relative strength of the anti-scatter grid's lines
    cut_off: Range = (0.0, 0.06)  # relative fall of the exposure from one side to the other
    marker: Marker = field(default_factory=Marker)
    marker_share: float = 0.85  # share of films with a marker
    lead_share: float = 0.55  # share of AP films with ECG leads
    line_share: float = 0.35  # share of AP films with a central line; tubes are less frequent
    drain_share: float = 0.4  # share of films with a pneumothorax that have a chest drain
    prevalence_factors: Mapping[str, float] = field(default_factory=dict)  # finding -> factor on its share of the films

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that describes the site."""
        return fingerprint(asdict(self))


_NORTH = Site(
    name="north",
    equipment=SiteEquipment(
        institution="PHANTOM NORTH HOSPITAL",
        manufacturer="Phantom Works",
        dx_model="Virtual DX",
        cr_model="Virtual CR",
        software="1.4",
    ),
)
_EAST = Site(
    name="east",
    equipment=SiteEquipment(
        institution="PHANTOM EAST CLINIC",
        manufacturer="Lumen Imaging",
        dx_model="Panel 43",
        cr_model="Cassette 2",
        software="E7.02",
        dx_bits=(14,),
        cr_bits=(10, 12),
        empty_attributes=("BodyPartExamined", "Laterality", "PatientAge", "PatientSex"),
        inverted_share=0.6,
    ),
    ap_share=0.30,
    age_offset=-4.0,
    scatter=(0.05, 0.11),
    portable_scatter=(0.16, 0.26),
    noise=(0.004, 0.009),
    portable_noise=(0.009, 0.016),
    edge_strength=(0.15, 0.4),
    edge_scale=(1.3, 1.8),
    curve="sigmoid",
    contrast=(1.8, 2.6),
    white=(0.96, 1.02),
    zoom=(0.95, 1.08),
    collimation_share=0.6,
    shutter=(0.3, 2.0),
    marker=Marker(letter="R", style="ring", portable_word="AP", height=1.7, position="side"),
    lead_share=0.4,
    line_share=0.25,
)
_SOUTH = Site(
    name="south",
    equipment=SiteEquipment(
        institution="PHANTOM SOUTH MEDICAL CENTRE",
        manufacturer="Meridian Rontgen",
        dx_model="MR-500",
        cr_model="MR-Reader",
        software="5.0.1",
        cr_share=0.6,
        poor_share=0.3,
        empty_attributes=("ViewPosition", "BodyPartExamined", "Laterality", "PatientOrientation"),
    ),
    ap_share=0.45,
    age_offset=3.0,
    scatter=(0.12, 0.22),
    portable_scatter=(0.26, 0.40),
    noise=(0.010, 0.018),
    portable_noise=(0.016, 0.028),
    blur=(0.045, 0.07),
    edge_strength=(0.5, 1.0),
    edge_scale=(0.5, 0.8),
    contrast=(1.0, 1.25),
    white=(1.02, 1.12),
    collimation_share=0.2,
    grid_lines=(0.0, 0.006),
    cut_off=(0.0, 0.12),
    marker=Marker(style="plain", word="", portable_word="PORT", height=1.9),
    lead_share=0.6,
    line_share=0.45,
)
_LAKE = Site(
    name="lake",
    equipment=SiteEquipment(
        institution="PHANTOM LAKE INFIRMARY",
        manufacturer="Phantom Works",
        dx_model="Virtual DX Mobile",
        cr_model="Virtual CR",
        software="2.0",
        dx_bits=(12, 14, 16),
        inverted_share=0.1,
    ),
    ap_share=0.40,
    noise=(0.007, 0.014),
    edge_strength=(0.8, 1.3),
    edge_scale=(1.0, 1.6),
    curve="sigmoid",
    contrast=(1.4, 2.2),
    black=(1.2, 2.0),
    white=(0.92, 1.0),
    zoom=(1.04, 1.18),
    collimation_share=0.5,
    shutter=(0.1, 0.8),
    border="white",
    marker=Marker(style="disc", portable_word="PORTABLE", height=1.4),
)
_WEST = Site(
    name="west",
    equipment=SiteEquipment(
        institution="PHANTOM WEST UNIVERSITY HOSPITAL",
        manufacturer="Occident Medical",
        dx_model="Vista R",
        cr_model="Vista Plate",
        software="9.1 SP2",
        dx_bits=(14, 16),
        cr_bits=(12,),
        cr_share=0.35,
        poor_share=0.2,
        empty_attributes=("ViewPosition", "PatientSex", "PatientBirthDate", "PatientAge"),
        inverted_share=0.5,
    ),
    ap_share=0.62,
    age_offset=6.0,
    scatter=(0.20, 0.34),
    portable_scatter=(0.34, 0.52),
    noise=(0.014, 0.024),
    portable_noise=(0.022, 0.036),
    blur=(0.035, 0.06),
    edge_strength=(1.6, 2.6),
    edge_scale=(0.35, 0.6),
    contrast=(0.52, 0.68),
    black=(0.2, 0.8),
    white=(1.06, 1.2),
    zoom=(0.90, 1.04),
    portable_zoom=(0.94, 1.10),
    collimation_share=0.75,
    shutter=(0.4, 2.4),
    border="white",
    grid_lines=(0.002, 0.010),
    cut_off=(0.0, 0.16),
    marker=Marker(letter="R", style="box", word="ER", portable_word="PORTABLE SUPINE", height=2.2, position="bottom"),
    marker_share=0.95,
    lead_share=0.7,
    line_share=0.55,
)

SITES: Mapping[str, Site] = MappingProxyType({site.name: site for site in (_NORTH, _EAST, _SOUTH, _LAKE, _WEST)})
"""Every hospital by name."""
PRETRAINING_SITES: tuple[str, ...] = ("north", "east", "south", "lake")
"""Sites of the demonstration encoder's training films."""
UNSEEN_SITE = "west"
"""Site excluded from the training of the demonstration encoder."""


def find_site(site: Site | str) -> Site:
    """Return the site of a name; a site itself is returned unchanged. KeyError for an unknown name."""
    return site if isinstance(site, Site) else SITES[site]
