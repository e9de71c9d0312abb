"""View and body part of a radiograph, as codes and as people write them, in the languages of senders.

Whole words are matched, never parts of words: "Darstellung" is no lung and "Manchester" no chest. Where a text names a frontal view
and another one, or the chest and another part, the other one counts: an image of another kind must not be scored.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from functools import lru_cache


class View(StrEnum):
    """The view that codes or words state."""

    FRONTAL = "frontal"
    LATERAL = "lateral"
    OTHER = "other"  # oblique, decubitus, axial, ...
    UNCLEAR = "unclear"  # words without a known meaning
    NOT_STATED = "not stated"


class BodyPart(StrEnum):
    """The part of the body that codes or words state."""

    CHEST = "chest"
    OTHER = "other"
    MIXED = "mixed"  # the chest and another part
    UNCLEAR = "unclear"  # words without a known meaning
    NOT_STATED = "not stated"


VIEW_BY_CODE: dict[str, View] = {  # PS3.16 CID 4010: SNOMED CT, and SNOMED RT of older objects
    **dict.fromkeys(("399348003", "R-10206", "272479007", "R-40888", "399033003", "R-10202"), View.FRONTAL),
    **dict.fromkeys(
        ("399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232", "399352003", "R-10228", "399260004", "R-10224"),
        View.LATERAL,
    ),
    **dict.fromkeys(
        (
            *(
                "399312000",
                "R-10208",
                "399061009",
                "R-10241",
                "399196006",
                "R-10244",
                "399162004",
                "R-10242",
                "399160007",
                "R-10204",
            ),
            *(
                "399132005",
                "R-10252",
                "260427002",
                "R-40783",
                "399099002",
                "R-10230",
                "399135007",
                "R-10220",
                "399184004",
                "R-10238",
            ),
            *(
                "399006002",
                "R-10212",
                "260426006",
                "R-40782",
                "399368009",
                "R-10226",
                "399004004",
                "R-10246",
                "399225005",
                "R-10250",
            ),
            *(
                "399288005",
                "R-10248",
                "399182000",
                "R-102C1",
                "399059000",
                "R-10216",
                "399356000",
                "R-40985",
                "399236003",
                "R-10234",
            ),
            *(
                "399038007",
                "R-10210",
                "399325008",
                "R-10254",
                "399110001",
                "R-102C2",
                "399335002",
                "R-102C4",
                "399071006",
                "R-102C3",
            ),
        ),
        View.OTHER,
    ),
}

BODY_PART_BY_CODE: dict[str, BodyPart] = {  # PS3.16 CID 4009 and CID 4031: SNOMED CT, and SNOMED RT of older objects
    **dict.fromkeys(
        ("816094009", "51185008", "T-D3000", "43799004", "T-D3200", "39607008", "T-28000", "86598002", "T-280A0"), BodyPart.CHEST
    ),
    **dict.fromkeys(
        (
            *(
                "416550000",
                "R-FAB55",
                "416775004",
                "R-FAB56",
                "417437006",
                "R-FAB52",
                "416152001",
                "R-FAB53",
                "416319003",
                "R-FAB54",
            ),
            *("122495006", "T-11502", "113197003", "T-11300", "56873002", "T-11210", "51299004", "T-12310", "38266002", "T-D0010"),
        ),
        BodyPart.OTHER,
    ),
}
"""Every other code is known by its words."""

_NOT_STATED = (
    "unknown|unk|n ?a|none|null|nil|not (?:stated|specified|given|applicable|available)|unspecified|undefined"
    "|default|general|misc"
    "|body ?part|view|x+|0|unbekannt|keine angabe|inconnue?|desconocid[oa]|sconosciut[oa]|desconhecid[oa]|onbekend|nieznan[eay]"
    "|bilinmiyor|неизвестно|okand|ukjent|ukendt|neznam[eay]|ismeretlen|tuntematon|不明|未知|未指定"
)
_FRONTAL = (
    r"pa|ap|p a|a p|(?:postero|antero|dorso|ventro) ?(?:posterior|anterior|ventral|dorsal)\w*"
    r"|(?:posterior|anterior) (?:anterior|posterior)"
    r"|frontal\w*|frontaal|d ?v|v ?d|face|frente|przednio ?tyln\w*|tylno ?przedni\w*|predozadni|zadopredni"
    r"|voor ?achterwaarts\w*"
    r"|achter ?voorwaarts\w*|прям\w*|передне ?задн\w*|задне ?передн\w*|forfra|etukuva"
)
_FRONTAL_CJK = "正面|正位|后前位|後前位|前后位|前後位"
_LATERAL = (
    r"l ?l|r ?l|ll[lr]|[lr] ?lat|lat ?[lr]?|lats|lateral\w*|laterali|lateraal|latero\w*|profil\w*|perfil|seitlich\w*"
    r"|seitl|seitenbild|zijdelings\w*|dwars"
    r"|boczn\w*|bok|bokiem|боков\w*|бок|yan|sida|sidobild|sidebillede|sivukuva|bocni|oldalir\w*|mediolateral\w*|lateromedial\w*"
)
_LATERAL_CJK = "側面|側位|侧位|侧面"
_OTHER_VIEWS = (
    r"decub\w*|lld|rld|obl\w*|schrag\w*|skos\w*|schuin\w*|косая|lao|rao|lpo|rpo"
    r"|lordotic\w*|lordose|axial\w*"
    r"|tangential\w*|swimmers?|apical|inlet|outlet|stress|cone\w*|coned|scout|topogram|liegend seitlich"
)
_CHEST = (
    r"(?:p|xr|x|dx|cr|rx|dr|port|mob|mobile)?chest\w*|cxr\w*|pcxr|\w*thora[xckzk]\w*|\w*tora(?:x|ks|ce|kal\w*)"
    r"|toracic\w*|torac\w*"
    r"|lungs?|lunge|lungen|lunga|lungor|lunger|brustkorb|brostkorg|brystkasse|borstkas|longen|poumons?|pulmo\w*|pulmao|polmon\w*"
    r"|klatk\w* piersiow\w*|klp|kl piersiowa|pluc\w*|akciger\w*|gogus|грудн\w*|огк|легк\w*|легоч\w*|торакс|keuhko\w*"
    r"|rintakeha|hrudnik\w*|plic\w*"
    r"|mellkas\w*|tudo|θωρακ\w*|cor pulm\w*"
)
_CHEST_CJK = "胸|흉부|صدر"
_OTHER_PARTS = (
    r"abd\w*|\w*abdom\w*|bauch\w*|buik|brzuch\w*|ventre|batin|karin|живот\w*|брюшн\w*|kub|c? ?t? ?l? ?spine\w*|spinal"
    r"|column?a|colonna|rachis"
    r"|coluna|wirbel\w*|[bhl]ws|brustwirbel\w*|kregoslup\w*|позвоноч\w*|lumbar|lumbal\w*|lombaire|cervical\w*|sacr\w*"
    r"|coccyx|pelvi\w*|becken\w*"
    r"|bassin|bacino|miednic\w*|таз\w*|hips?|huft\w*|hanche|cadera|heup|clavic\w*|schlusselbein|shoulders?"
    r"|schulter\w*|epaule|hombro"
    r"|spalla|ombro|schouder|scapula\w*|stern(?:um|al\w*)|ribs?|rippen?|humerus|elbow|ellenbogen|coude|codo|forearm"
    r"|unterarm|wrist|handgelenk"
    r"|poignet|hands?|mano|fingers?|thumb|daumen|femur|thigh|oberschenkel|knees?|knie|genou|rodilla|ginocchio|joelho"
    r"|kolan\w*|tibia|legs?"
    r"|unterschenkel|ankle|sprunggelenk|cheville|tobillo|foot|feet|fuss|pied|stopa|стоп\w*|кист\w*|toes?|calcaneus"
    r"|skull|schadel\w*|crane"
    r"|craneo|cranio|череп|head|kopf|neck|hals|facial|orbits?|sinus(?:es)?|nasal|jaw|mandib\w*|dental|teeth|tooth"
    r"|breasts?|mamm\w*|stomach"
    r"|o?esophag\w*|barium|babygram|whole ?body|extremit\w*|skelet\w*|thoracolumbar\w*|cervicothoracic\w*|thoraco ?abdom\w*"
)
_OTHER_PARTS_CJK = "腹|頭|头|脊|腰|膝|骨盤|骨盆|복부"
_THORACIC_SPINE = re.compile(r"\bthoracic (?:spine|vertebra\w*)|\b(?:t|d) ?spine\b|\bbws\b|\b(?:brust|thorakale?\w*) ?wirbel\w*")


def _compile_words(spaced: str, unspaced: str = "") -> re.Pattern[str]:
    words = rf"(?<![^\W_])(?:{spaced})(?![^\W_])"
    return re.compile(f"{words}|{unspaced}" if unspaced else words)


_IS_NOT_STATED = re.compile(rf"\s*(?:{_NOT_STATED})?\s*")
_IS_FRONTAL = _compile_words(_FRONTAL, _FRONTAL_CJK)
_IS_LATERAL = _compile_words(_LATERAL, _LATERAL_CJK)
_IS_OTHER_VIEW = _compile_words(_OTHER_VIEWS)
_IS_CHEST = _compile_words(_CHEST, _CHEST_CJK)
_IS_OTHER_PART = _compile_words(_OTHER_PARTS, _OTHER_PARTS_CJK)


@lru_cache(maxsize=4096)
def fold_words(text: str) -> str:
    """Return the words of a text: lower case, without accents, one space between them; "p.a." and "P-A" as "pa"."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().replace("ł", "l").replace("\u0131", "i").replace("ø", "o"))
    plain = unicodedata.normalize("NFC", "".join(c for c in decomposed if not unicodedata.combining(c)))
    plain = re.sub(r"\b([pa])\s?[./\\-]\s?([pa])\b\.?", r"\1\2", plain)
    return " ".join(re.sub(r"[\W_]+", " ", plain).split())


def view_of_words(text: str) -> View:
    """Return the view that a text states."""
    words = fold_words(text)
    if _IS_NOT_STATED.fullmatch(words):
        return View.NOT_STATED
    if _IS_OTHER_VIEW.search(words):
        return View.OTHER
    if _IS_LATERAL.search(words):
        return View.LATERAL
    return View.FRONTAL if _IS_FRONTAL.search(words) else View.UNCLEAR


def names_frontal_view(text: str) -> bool:
    """Tell whether a text names a frontal view, also where it names others: "chest PA and lateral"."""
    return _IS_FRONTAL.search(fold_words(text)) is not None


def body_part_of_words(text: str) -> BodyPart:
    """Return the part of the body that a text states."""
    words = fold_words(text)
    if _IS_NOT_STATED.fullmatch(words):
        return BodyPart.NOT_STATED
    without_spine, spines = _THORACIC_SPINE.subn(" ", words)
    has_chest = _IS_CHEST.search(without_spine) is not None
    if spines or _IS_OTHER_PART.search(without_spine):
        return BodyPart.MIXED if has_chest else BodyPart.OTHER
    return BodyPart.CHEST if has_chest else BodyPart.UNCLEAR
