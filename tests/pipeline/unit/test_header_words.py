"""View and body part as people write them; and words that only look like them."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import rules
from pipeline.domain import Header
from pipeline.header_words import BodyPart, View, body_part_of_words, view_of_words
from tests.builders.peers import shared

SCORE = rules.ChestPolicy()
STRICT = rules.ChestPolicy(no_view_position="ignore", no_body_part="ignore")

FRONTAL = """
AP|PA|ap|Pa|AP SUPINE|PA ERECT|AP PORTABLE|AP_SUPINE|AP-ERECT|SUPINE AP|AP SEMI ERECT
AP SEMIUPRIGHT|PORTABLE AP|AP SITTING|A.P.|p.a.|P.A|A-P|P/A
FRONTAL|Frontal view|POSTERO_ANTERIOR|POSTEROANTERIOR|postero-anterior|ANTERO-POSTERIOR
ANTEROPOSTERIOR|Posterior anterior|Chest PA|CHEST_PA
Chest AP bedside|PA 1 VIEW|XR CHEST PA|dorsoventral|d.v.|ventro-dorsal|face|de face|frente|frontale
przednio-tylna|PA stehend|ap liegend
postero-anteriore|proyección PA|incidence de face|прямая|передне-задняя|正面|后前位|正位|PA stående
PA istuva|předozadní
"""
LATERAL = """
LL|RL|LAT|lat|LATERAL|Lateral|LLAT|RLAT|L LAT|LEFT LATERAL|LAT L|Lat.|Chest Lat|CHEST_LAT|L-LAT
LATERAL ERECT|latero-lateral|LL SUPINE
seitlich|seitl.|profil|de profil|perfil|laterale|lateraal|zijdelings|boczna|bok|боковая|yan|sida|側面
侧位|oldalirányú|PA LAT|PA & LATERAL
"""
OTHER_VIEWS = """
LLD|RLD|DECUBITUS|LEFT LATERAL DECUBITUS|AP DECUBITUS|LAT DECUB|OBLIQUE|RAO|LAO|RPO|LPO|PA OBLIQUE
AP OBLIQUE|LORDOTIC|AP LORDOTIC|AXIAL
oblicua|oblique antérieure droite|schräg|TANGENTIAL|Swimmers
"""
UNCLEAR_VIEWS = "CHEST|STANDARD|XYZ|1|ERECT|SUPINE|PORTABLE|MAP|PAL|APEX|PAPER|Spa|LATE|LATVIA|plat|translation"
CHEST = """
CHEST|chest|CHEST PA|CHEST_PA|CHEST1VIEW|XR CHEST|XRCHEST|Portable chest|PCHEST|CHEST PORT|THORAX
THORAX AP|Thorax p.a.|TORAX|Tórax|torax ap
TORACE|torace|thoracique|Radiographie thoracique|Röntgen Thorax|Rx torax|Lunge|LUNG|LUNGS|Lungen
Brustkorb|poumons|Poumon|pulmones|polmoni
pulmão|longen|borstkas|klatka piersiowa|Klatki piersiowej|KLP|płuca|akciğer|Toraks|göğüs
грудная клетка|ОГК|лёгкие|lungor|bröstkorg|lunger
brystkasse|keuhkot|rintakehä|hrudník|plíce|mellkas|tüdő|胸部|胸片|흉부|Hemithorax|cor/pulmo|CXR|pulmonary
"""
OTHER_PARTS = """
HAND|Hand links|ABDOMEN|ABD|abdomen ap|KUB|Bauch|Pelvis|PELVIS AP|Becken|KNEE|SHOULDER|Schulter
épaule|CSPINE|C-SPINE|TSPINE|LSPINE|L SPINE
SPINE|THORACIC SPINE|T SPINE|BWS|Brustwirbelsäule|LUMBAR SPINE|SKULL|FOOT|ANKLE|WRIST|ELBOW|HIP
RIBS|RIB|CLAVICLE|STERNUM|NECK|HEAD|BREAST
Bauch leer|brzuch|живот|腹部|columna lumbar|Wirbelsäule|mano|genou|WHOLEBODY|BABYGRAM|Extremity
"""
MIXED = """
CHEST_ABDOMEN|CHEST_TO_ABDOMEN|Thorax/Abdomen|CHEST ABD|NECK CHEST|chest and pelvis|THORACOLUMBAR|columna torácica
"""
NOT_STATED = """|UNKNOWN|unknown|Unk|N/A|n/a|NA|NONE|None|NOT SPECIFIED|not stated|UNSPECIFIED|-|--|?|...| |XXX|unbekannt
inconnu|不明|BODY PART
"""
UNCLEAR_PARTS = "Darstellung|Abteilung|Untersuchung|Manchester|Rochester Clinic|ROUTINE|TRUNK|OTHER|Orchestra|lungfish"


def words_of(table: str) -> list[str]:
    return [word for line in table.strip("\n").split("\n") for word in line.split("|")]


@pytest.mark.parametrize(
    ("table", "view"),
    [
        (FRONTAL, View.FRONTAL),
        (LATERAL, View.LATERAL),
        (OTHER_VIEWS, View.OTHER),
        (UNCLEAR_VIEWS, View.UNCLEAR),
        (NOT_STATED, View.NOT_STATED),
    ],
    ids=["frontal", "lateral", "other", "unclear", "not stated"],
)
def test_views_as_people_write_them(table: str, view: View) -> None:
    wrong = {word: str(found) for word in words_of(table) if (found := view_of_words(word)) is not view}
    assert wrong == {}


@pytest.mark.parametrize(
    ("table", "part"),
    [
        (CHEST, BodyPart.CHEST),
        (OTHER_PARTS, BodyPart.OTHER),
        (MIXED, BodyPart.MIXED),
        (UNCLEAR_PARTS, BodyPart.UNCLEAR),
        (NOT_STATED, BodyPart.NOT_STATED),
    ],
    ids=["chest", "other", "mixed", "unclear", "not stated"],
)
def test_body_parts_as_people_write_them(table: str, part: BodyPart) -> None:
    wrong = {word: str(found) for word in words_of(table) if (found := body_part_of_words(word)) is not part}
    assert wrong == {}


def header(**elements: object) -> Header:
    values: dict[str, object] = {"modality": "DX", "has_pixels": True, "sop_class_uid": rules.DIGITAL_X_RAY_FOR_PRESENTATION}
    uids = {"sop_instance_uid": "1.2.3", "series_instance_uid": "1.2", "study_instance_uid": "1", "transfer_syntax_uid": "1.2"}
    return Header(**{**values, **uids, **elements})  # type: ignore[arg-type]  # a row of a table


@pytest.mark.parametrize(
    ("elements", "policy", "reason"),
    [
        # Codes first, then the words of the image, then those of the study.
        ({"body_part_examined": "CHEST", "view_code": "R-10206"}, STRICT, None),
        ({"body_part_examined": "CHEST", "view_code": "272479007", "view_code_meaning": "?"}, STRICT, None),
        ({"body_part_examined": "CHEST", "view_code": "399067008", "view_position": "PA"}, SCORE, "lateral view"),
        ({"body_part_examined": "CHEST", "view_code": "R-10210", "view_position": "AP"}, SCORE, "view that is not frontal"),
        ({"body_part_examined": "CHEST", "view_code": "272479007", "view_position": "LL"}, SCORE, "lateral view"),
        ({"body_part_examined": "CHEST", "view_code": "X", "view_code_meaning": "antero-posterior"}, STRICT, None),
        ({"anatomic_region_code": "T-D3000", "anatomic_region_meaning": "?", "view_position": "PA"}, STRICT, None),
        ({"anatomic_region_code": "416550000", "body_part_examined": "CHEST", "view_position": "PA"}, SCORE, "not the chest"),
        ({"anatomic_region_meaning": "Chest", "view_position": "PA"}, STRICT, None),
        ({"anatomic_region_meaning": "Hand", "body_part_examined": "CHEST", "view_position": "PA"}, SCORE, "not the chest"),
        ({"anatomic_region_meaning": "Chest", "body_part_examined": "HAND", "view_position": "PA"}, SCORE, "not the chest"),
        ({"body_part_examined": "UNKNOWN", "study_description": "XR CHEST PA", "view_position": ""}, STRICT, None),
        ({"body_part_examined": "N/A", "series_description": "Thorax", "view_position": "AP SUPINE"}, STRICT, None),
        ({"body_part_examined": "UNKNOWN", "study_description": "XR HAND PA", "view_position": "PA"}, SCORE, "not the chest"),
        ({"series_description": "ABD AP", "study_description": "CHEST AND ABDOMEN"}, SCORE, "not the chest"),
        ({"series_description": "Hand Darstellung", "view_position": "PA"}, SCORE, "not the chest"),
        ({"study_description": "Manchester Royal", "view_position": "PA"}, STRICT, "body part not stated"),
        ({"body_part_examined": "OTHER", "view_position": "PA"}, SCORE, "not the chest"),
        ({"body_part_examined": "OTHER", "study_description": "CHEST 1 VIEW", "view_position": "PA"}, STRICT, None),
        # What stays unclear follows the policy.
        ({"body_part_examined": "CHEST", "view_position": "STANDARD"}, SCORE, None),
        ({"body_part_examined": "CHEST", "view_position": "STANDARD"}, STRICT, "view not stated"),
        ({"body_part_examined": "CHEST", "view_position": "UNKNOWN"}, STRICT, "view not stated"),
        ({"body_part_examined": "CHEST", "view_position": "SUPINE", "series_description": "CHEST AP"}, STRICT, None),
        ({"body_part_examined": "CHEST", "view_position": "ERECT", "series_description": "CHEST LAT"}, SCORE, "lateral view"),
        ({"body_part_examined": "CHEST", "study_description": "CHEST PA AND LATERAL"}, STRICT, "view not stated"),
        ({"body_part_examined": "CHEST", "study_description": "CHEST PA AND LATERAL"}, SCORE, None),
        ({"body_part_examined": "CHEST", "study_description": "CHEST LATERAL"}, SCORE, "lateral view"),
        ({"body_part_examined": "CHEST", "view_position": "L"}, SCORE, "lateral view"),
        ({"body_part_examined": "CHEST_TO_ABDOMEN", "view_position": "AP"}, SCORE, "not the chest"),
    ],
)
def test_codes_and_words_of_image_and_study(elements: dict[str, object], policy: rules.ChestPolicy, reason: str | None) -> None:
    assert rules.exclusion_reason(header(**elements), policy) == reason


def test_images_with_words_that_are_not_understood_are_counted() -> None:
    assert rules.is_unclear(header(body_part_examined="CHEST", view_position="STANDARD"))
    assert rules.is_unclear(header(body_part_examined="TRUNK", view_position="PA"))
    assert not rules.is_unclear(header(body_part_examined="CHEST", view_position="AP SUPINE"))
    assert not rules.is_unclear(header())


@given(st.sampled_from(words_of(LATERAL) + words_of(OTHER_VIEWS)), st.text(max_size=12), st.sampled_from(["", "PA", "AP ERECT"]))
def test_no_addition_makes_another_view_frontal(word: str, noise: str, frontal: str) -> None:
    assert view_of_words(f"{frontal} {word} {noise}") is not View.FRONTAL


@given(st.sampled_from(words_of(OTHER_PARTS)), st.text(max_size=12), st.sampled_from(["", "CHEST", "thorax pa"]))
def test_no_addition_makes_another_part_the_chest(word: str, noise: str, chest: str) -> None:
    assert body_part_of_words(f"{chest} {word} {noise}") is not BodyPart.CHEST


@pytest.mark.parametrize("name", ["view_ap_supine", "bodypart_unknown"])
def test_films_whose_words_were_not_understood_are_scored(name: str) -> None:
    from adapters.dicom.image import part10

    encoded, syntax = part10.split_file(shared(f"faults/{name}.dcm").read_bytes())
    assert rules.exclusion_reason(part10.read_header(BytesIO(encoded), syntax), STRICT) is None
