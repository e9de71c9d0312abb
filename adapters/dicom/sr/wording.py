"""Words of radiologists, in the languages of senders, that deny, doubt or date a finding. They only ever take a label away.

A code decides a label; words beside it never do. A reader's "no", "possible" or "history of" near a coded finding makes the finding
unclear. Sources: NegEx (Chapman 2001) for English; the same cues in the languages of DICOM senders. A missing cue leaves a label
as the codes state it; a superfluous cue costs one label.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_DENIALS = (
    # English
    "no|not|non|none|nil|never|neither|nor|without|absent|absence|negative|neg|negated|negation|den(?:y|ies|ied)|lack(?:s|ing)?"
    r"|refuted|false|resolved|nonexistent|nonpresent|ruled?\s+out|r\s?/\s?o|free\s+of|fails?\s+to|unremarkable"
    # German, Dutch
    "|kein\\w*|nicht|nein|ohne|ausgeschlossen|ausschluss|abwesend|fehlt|fehlend\\w*|unauffallig\\w*|geen|niet|nee|zonder|afwezig"
    "|uitgesloten"
    # French, Spanish, Italian, Portuguese
    "|pas|aucun\\w*|sans|ni|ningun\\w*|sin|nessun\\w*|senza|nao|nenhum\\w*|sem|absen\\w*|ausen\\w*|ausenc\\w*|assen[tz]\\w*"
    "|exclu\\w*|esclu\\w*|descart\\w*|negativ\\w*|negatif\\w*"
    # Polish, Czech, Hungarian, Turkish, Finnish, Swedish, Danish, Norwegian
    "|nie|brak|bez|wyklucz\\w*|zadn\\w*|neni|nejsou|nincs\\w*|nem|nelkul|hiany\\w*|yok|degil|hayir|ei|ilman|ingen|inga|inget|intet"
    "|ikke|inte|ej|nej|nei|utan|uden|uten|franvar\\w*|fravaer\\w*"
    # Russian, Ukrainian, Greek
    "|не|нет|нету|без|отсутств\\w*|отрицат\\w*|исключ\\w*|немає|відсутн\\w*|δεν|οχι|χωρις"
)
_DENIALS_WITHOUT_SPACES = "なし|無し|ない|せず|陰性|陰影なし|认めず|認めず|無|无|未见|未見|没有|否|阴性|없음|음성|아니"
_DOUBTS = (
    r"possib\w*|probab\w*|perhaps|maybe|may|might|could|cannot|can\s?t|suspect\w*|suspicio\w*|question\w*|doubt\w*|equivocal"
    "|indeterminate|undetermined|inconclusive|unknown|uncertain\\w*|unclear|unsure|likely|unlikely|differential|versus|vs"
    "|moglich\\w*|verdacht\\w*|v\\.?\\s?a\\.|fraglich\\w*|wahrscheinlich\\w*|unklar\\w*|unbekannt|unsicher\\w*|mogelijk\\w*"
    "|waarschijnlijk|verdenking|douteu\\w*|incertain\\w*|suspicion|posib\\w*|probabil\\w*|sospech\\w*|sospett\\w*|suspeit\\w*"
    "|dudos\\w*|dubbi\\w*|possive\\w*|prova\\w*vel|incert\\w*|mozliw\\w*|podejrz\\w*|olasi|suphe\\w*|mozn\\w*|podezr\\w*|lehets\\w*"
    "|gyanu\\w*|mahdolli\\w*|epail\\w*|misstank\\w*|mojlig\\w*|mulig\\w*|mistanke|возможн\\w*|вероятн\\w*|подозр\\w*|неясн\\w*"
)
_DOUBTS_WITHOUT_SPACES = r"疑|可能|不明|不除外|의심|\?"
_HISTORY = (
    r"history|historical|h\s?/\s?o|status\s+post|s\s?/\s?p|prior|previous\w*|past|former\w*|earlier|old|famil\w*|mother|father|sibling"
    "|vorbefund\\w*|vorgeschichte|voraufnahme\\w*|anamne\\w*|fruher\\w*|z\\.?\\s?n\\.|zustand\\s+nach|antecedent\\w*|precedent\\w*"
    "|anterior(?:es)?|previ[ao]s?|pregress\\w*|eerder\\w*|voorgeschiedenis|poprzedni\\w*|wywiad|onceki|oyku|анамнез\\w*|ранее"
    "|предыдущ\\w*|tidigare|tidligere|aiemm\\w*|predchoz\\w*|korabbi"
)
_HISTORY_WITHOUT_SPACES = "既往|病史|前回|과거"
_OTHER_SECTIONS = (
    r"clinical\s+(?:information|history|data|details|question|indication)|indication\\w*|request\\w*|reason|comparison\\w*|recommend\\w*|question|klinische|fragestellung|indikation\\w*"
    "|empfehlung\\w*|vergleich\\w*|motif|recommand\\w*|recomend\\w*|raccomand\\w*|aanbevel\\w*|zalecen\\w*|рекоменд\\w*|показан\\w*"
)
_NORMAL = (
    "normal\\w*|abnormality|applicable|n\\s?/\\s?a|evaluated|assessed|examined|performed|visuali[sz]ed|unremarkable|o\\.?\\s?b\\."
)
_AFFIRMATIONS = (
    "yes|y|true|present|positive|pos|detected|confirmed|definite|definitely\\s+present|known\\s+present|ja|vorhanden|positiv|oui"
    "|presente?s?|si|sim|aanwezig|tak|obecn\\w*|ano|igen|evet|var|kylla|есть|да|имеется|あり|有|陽性|阳性|있음|양성"
)
_COURSES = (
    r"stable|unchanged|new|increas\w*|decreas\w*|improv\w*|wors\w*|progress\w*|regress\w*|larger|smaller|mild|moderate|severe|small"
    "|large|acute|chronic|active|neu|unverandert|zunehmend|abnehmend|leicht|massig|schwer|stabil\\w*|inchange\\w*"
)
_PRESENCE_NAMES = (
    "presence|present|absence|absent|existence|finding\\s+context|context|status|certainty|confidence|likelihood|assertion|polarity"
    "|negat\\w*|result|occurrence|verification|vorhanden\\w*|vorliegen|nachweis|presencia|presenca|presenza|aanwezigheid|obecnosc"
    "|наличие|有無|有无"
)
_SCORE_NAMES = "probab\\w*|likelihood|confidence|certainty|score|wahrscheinlichkeit|percent\\w*"

_FINDING_NAMES = {
    "Atelectasis": r"atele[ck]ta\w*|ателект|無気肺|肺不",
    "Cardiomegaly": r"[ck]ardiomegal|enlarged\s+heart|heart\s+enlarge|herzvergro|кардиомегал|心拡大|心影增大",
    "Effusion": r"effusi|efuzj|efuzyon|ergu?ss|epanchement|derrame|versamento|pleuravocht|wysiek|выпот|pleurav[ae]|vypot|胸水|积液",
    "Infiltration": r"infiltr|инфильтр|浸潤|浸润",
    "Mass": r"\bmass(?:e|es|a|as)?\b|\bmasas?\b|raumforderung|tumou?r|\bguz\b|образован|腫瘤|肿块",
    "Nodule": r"nodul|rundherd|guz(?:ek|ki|kow)|узел|узл|очаг|結節|结节",
    "Pneumonia": r"pn?eumoni|neumoni|pneumopath|polmonit|longontsteking|zapalenie\s+p|пневмони|lunginflam|lungebet|tudogyull|肺炎",
    "Pneumothorax": r"pn?eumot|pnomotor|\bptx\b|\bodm[aey]\b|пневмотор|klaplong|legmell|ilmarin|気胸|气胸|기흉",
    "Consolidation": r"[ck]onsolid|консолид|verdichtung|実変",
    "Edema": r"\bo?edem|odem\b|отек|stauung|stuwing|obrzek|水腫|水肿",
    "Emphysema": r"emphys|emfy[sz]|enfisem|эмфизем|rozedm|気腫|气肿",
    "Fibrosis": r"fibros|fibrot|фиброз|線維|纤维",
    "Pleural_Thickening": r"pleural\s+thick|thickened\s+pleura|pleuraverdick|schwarte|paississement|engrosamiento|ispessimento",
    "Hernia": r"\bherni|грыж|疝",
}


def _compile_words(spaced: str, unspaced: str = "") -> re.Pattern[str]:
    words = rf"(?<!\w)(?:{spaced})(?!\w)"
    return re.compile(f"{words}|{unspaced}" if unspaced else words)


_DENIAL = _compile_words(_DENIALS, _DENIALS_WITHOUT_SPACES)
_DOUBT = _compile_words(_DOUBTS, _DOUBTS_WITHOUT_SPACES)
_PAST = _compile_words(_HISTORY, _HISTORY_WITHOUT_SPACES)
_ELSEWHERE = _compile_words(_OTHER_SECTIONS)
_NOT_STATED = _compile_words(_NORMAL)
_AFFIRMATION = re.compile(f"(?:{_AFFIRMATIONS})")
_COURSE = re.compile(f"(?:{_COURSES})?")
_PRESENCE_NAME = _compile_words(_PRESENCE_NAMES)
_SCORE_NAME = _compile_words(_SCORE_NAMES)
_NAMES = {finding: re.compile(names) for finding, names in _FINDING_NAMES.items()}
_HARMLESS = re.compile(
    r"\bno (?:significant |relevant |interval |status )?change\b|\bnot otherwise specified\b|\bnot elsewhere classified\b"
    r"|無気肺|无气肺"
    r"|\b(?:since|from|with|to|than)(?: the)? (?:prior|previous|last|earlier)\b"
)
"""Phrases with a cue that neither deny nor doubt: comparisons, and the remainder classes of code systems."""
_SENTENCE_END = re.compile(r"(?<=\w\w\w)\.\s+|[;!\n\r。\uff1b]+|\bbut\b|\baber\b|\bmais\b|\bpero\b")


@lru_cache(maxsize=4096)
def fold_text(text: str) -> str:
    """Return a text without case and accents, "non-" and other hyphens kept from being read as denials of their own."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = unicodedata.normalize("NFC", "".join(c for c in decomposed if not unicodedata.combining(c)))
    plain = re.sub(r"\bnon[-_](?=\w)", "non", plain).replace("_", " ")
    return _HARMLESS.sub(" ", plain)


def denies_or_doubts(words: str) -> bool:
    """Tell whether the words of a code deny a finding, doubt it, place it in the past or say that nobody looked."""
    folded = fold_text(words)
    return any(pattern.search(folded) for pattern in (_DENIAL, _DOUBT, _PAST, _NOT_STATED))


def is_affirmation(words: str) -> bool:
    """Tell whether the words of a value mean "present" and nothing else."""
    return _AFFIRMATION.fullmatch(fold_text(words).strip()) is not None


def is_course(words: str) -> bool:
    """Tell whether the words of a value state a finding's course or degree, which it has only where it is present."""
    return _COURSE.fullmatch(fold_text(words).strip()) is not None


def is_denial(words: str) -> bool:
    """Tell whether the words of a heading deny what stands below it, or doubt it."""
    folded = fold_text(words)
    return bool(_DENIAL.search(folded) or _DOUBT.search(folded))


def is_denial_or_past(words: str) -> bool:
    """Tell whether the words of a finding deny it, doubt it or place it in the past."""
    return is_denial(words) or bool(_PAST.search(fold_text(words)))


def names_another_section(words: str) -> bool:
    """Tell whether a heading names what is not a finding of this study: history, indications, recommendations."""
    folded = fold_text(words)
    return bool(_PAST.search(folded) or _ELSEWHERE.search(folded))


def names_presence(words: str) -> bool:
    """Tell whether the name of an item announces a presence value."""
    return bool(_PRESENCE_NAME.search(fold_text(words)))


def names_score(words: str) -> bool:
    """Tell whether the name of a number announces a probability or the like."""
    return bool(_SCORE_NAME.search(fold_text(words)))


def denied_findings(text: str, own_name: str = "") -> tuple[frozenset[str], bool]:
    """Return the findings that the sentences of a text deny or doubt, and whether a sentence denies without naming a finding.

    `own_name`: the name of the item that holds the text, the subject of a sentence such as "not seen".
    """
    denied: set[str] = set()
    unnamed = False
    subject = named_findings(own_name)
    for sentence in _SENTENCE_END.split(text):
        folded = fold_text(sentence)
        if not (_DENIAL.search(folded) or _DOUBT.search(folded) or _PAST.search(folded)):
            continue
        named = named_findings(sentence) or subject
        denied |= named
        unnamed = unnamed or not named
    return frozenset(denied), unnamed


def named_findings(text: str) -> set[str]:
    """Return the findings that a text names."""
    folded = fold_text(text)
    return {finding for finding, names in _NAMES.items() if names.search(folded)}
