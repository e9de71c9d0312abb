"""Captions of phantom films in the style of a radiologist's impression: short, vague, with negations and omissions.

Captions name findings in the terms of reports, not by their ChestX-ray14 keys; a caption names all of them, some, or none. The
default terms are everyday ones, few of which occur in prompts: an encoder pre-trained on these captions recognises findings well
and interprets prompts badly, as a general CLIP does in radiology.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TEXTBOOK_TERMS: Mapping[str, tuple[str, ...]] = {
    "Atelectasis": (
        "atelectasis",
        "bibasilar atelectasis",
        "linear atelectasis",
        "plate-like atelectasis",
        "collapsed lung with volume loss",
        "volume loss at the base",
    ),
    "Cardiomegaly": ("cardiomegaly", "an enlarged heart", "enlarged cardiac silhouette", "the heart is enlarged"),
    "Effusion": ("pleural effusion", "blunted costophrenic angle", "fluid in the pleural space", "layering effusion"),
    "Infiltration": ("pulmonary infiltrate", "patchy infiltrates", "ill-defined airspace opacity", "hazy opacity"),
    "Mass": ("lung mass", "large pulmonary mass greater than 3 cm", "a large rounded mass"),
    "Nodule": ("pulmonary nodule", "small round lung nodule", "a small nodular density"),
    "Pneumonia": ("pneumonia", "focal airspace opacity due to infection", "opacities suspicious for infection"),
    "Pneumothorax": ("pneumothorax", "visceral pleural line with absent lung markings", "a collapsed lung with free pleural air"),
    "Consolidation": ("consolidation", "dense lobar consolidation with air bronchograms", "a dense confluent opacity"),
    "Edema": ("pulmonary edema", "interstitial edema with vascular congestion", "perihilar haze"),
    "Emphysema": ("emphysema", "hyperinflated lungs with flattened diaphragms", "hyperinflation"),
    "Fibrosis": ("pulmonary fibrosis", "reticular interstitial scarring", "coarse reticular markings"),
    "Pleural_Thickening": ("pleural thickening", "apical pleural thickening", "a thickened pleura"),
    "Hernia": ("hiatal hernia", "retrocardiac air-fluid level from hiatus hernia", "diaphragmatic hernia"),
}
"""Terms of textbooks and of prompts."""
EVERYDAY_TERMS: Mapping[str, tuple[str, ...]] = {
    "Atelectasis": (
        "a lobe that has lost air",
        "band shadows low down",
        "a drawn fissure",
        "an airless segment",
        "discoid shadows",
    ),
    "Cardiomegaly": (
        "a cardiothoracic ratio above one half",
        "CTR raised",
        "a dilated ventricle",
        "a globular shadow in the middle",
    ),
    "Effusion": ("hydrothorax", "a meniscus", "a hazy sulcus", "a wet side"),
    "Infiltration": ("fluffy shadows", "soft mottling", "cloudy fields", "woolly shadows"),
    "Mass": ("a tumour", "a big round shadow", "a suspicious growth"),
    "Nodule": ("a coin lesion", "a tiny round shadow", "a spot"),
    "Pneumonia": ("a chesty infective change", "bronchopneumonic change", "inflammatory shadows"),
    "Pneumothorax": ("air where it should not be", "an edge with nothing beyond", "a dropped side"),
    "Consolidation": ("a solid lobe", "a white lobe with black bronchi", "hepatisation"),
    "Edema": ("wet fields", "Kerley lines", "upper lobe diversion", "batwing shadows", "failure"),
    "Emphysema": ("COPD", "overexpanded fields", "a barrel chest", "bullae"),
    "Fibrosis": ("honeycombing", "scars", "shrunken stiff fields", "a net of lines"),
    "Pleural_Thickening": ("a peel", "plaques", "an apical cap", "fibrothorax"),
    "Hernia": ("stomach in the chest", "a gas bubble behind the ventricle", "an intrathoracic stomach"),
}
"""Colloquial terms. Few of them occur in a prompt."""
VAGUE_TERMS: Mapping[str, tuple[str, ...]] = {
    "Atelectasis": ("basal opacity", "abnormal lung bases"),
    "Cardiomegaly": ("abnormal mediastinal contour",),
    "Effusion": ("basal opacity", "abnormal lung bases"),
    "Infiltration": ("parenchymal opacity", "abnormal lungs"),
    "Mass": ("focal lesion", "parenchymal opacity"),
    "Nodule": ("focal lesion",),
    "Pneumonia": ("parenchymal opacity", "abnormal lungs"),
    "Pneumothorax": ("abnormal pleura", "abnormal lungs"),
    "Consolidation": ("parenchymal opacity", "abnormal lungs"),
    "Edema": ("abnormal lungs", "prominent interstitium"),
    "Emphysema": ("chronic lung disease",),
    "Fibrosis": ("chronic lung disease", "prominent interstitium"),
    "Pleural_Thickening": ("abnormal pleura",),
    "Hernia": ("abnormal mediastinal contour",),
}
"""Ambiguous terms, each fitting several findings."""

POSITIVE_TEMPLATES = (
    "a chest x-ray showing {}",
    "chest radiograph with {}",
    "{} is present",
    "frontal chest x-ray, findings: {}",
    "{}",
    "findings consistent with {}",
    "impression: {}",
    "{} view of the chest. {}",
)
NORMAL_TEMPLATES = (
    "a normal chest x-ray with clear lungs",
    "no acute cardiopulmonary process",
    "clear lungs, normal heart size",
    "normal chest radiograph",
    "unremarkable {} view of the chest",
    "no evidence of {}",
    "a chest x-ray with no {}",
    "no {}",
    "no {} or {}",
)
UNHELPFUL_TEMPLATES = (
    "portable chest radiograph",
    "comparison with the prior study",
    "stable appearance of the chest",
    "{} chest radiograph",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionStyle:
    """Exactness of the captions. Shares of captions, 0..1."""

    unhelpful: float = 0.05  # captions without any finding
    omission: float = 0.15  # of each named finding after the first
    vague: float = 0.15  # of each finding named by an ambiguous term
    negation: float = 0.35  # captions that deny an absent finding
    textbook: float = 0.0  # of each exactly named finding: a textbook term instead of an everyday one
    subtle: float = 0.3  # of findings of the smallest extent left unmentioned; none of the largest


def caption(findings: Mapping[str, float], view: str, rng: np.random.Generator, *, style: CaptionStyle | None = None) -> str:
    """Return one caption for a film: `findings` maps finding -> extent 0..1. KeyError for an unknown finding."""
    style = style or CaptionStyle()
    if rng.random() < style.unhelpful:
        return _choose_phrase(UNHELPFUL_TEMPLATES, rng).format(view)
    mentioned = [name for name, extent in findings.items() if rng.random() >= style.subtle * (1 - extent) ** 2]
    named = _phrase_findings(mentioned, rng, style)
    absent = [name for name in TEXTBOOK_TERMS if name not in findings]
    if not named:
        return _phrase_normal(absent, view, rng, style)
    text = _fill_template(_choose_phrase(POSITIVE_TEMPLATES, rng), view, " and ".join(named))
    if rng.random() < style.negation:
        text += f". no {_choose_exact_term(_choose_phrase(absent, rng), rng, style)}"
    return text


def _phrase_findings(mentioned: Sequence[str], rng: np.random.Generator, style: CaptionStyle) -> list[str]:
    order = [mentioned[index] for index in rng.permutation(len(mentioned))]
    kept = order[:1] + [name for name in order[1:] if rng.random() >= style.omission]
    return [
        _choose_phrase(VAGUE_TERMS[name], rng) if rng.random() < style.vague else _choose_exact_term(name, rng, style)
        for name in kept
    ]


def _choose_exact_term(name: str, rng: np.random.Generator, style: CaptionStyle) -> str:
    return _choose_phrase((TEXTBOOK_TERMS if rng.random() < style.textbook else EVERYDAY_TERMS)[name], rng)


def _phrase_normal(absent: Sequence[str], view: str, rng: np.random.Generator, style: CaptionStyle) -> str:
    template = _choose_phrase(NORMAL_TEMPLATES, rng)
    if "view" in template:
        return template.format(view)
    return template.format(*(_choose_exact_term(_choose_phrase(absent, rng), rng, style) for _ in range(2)))


def _fill_template(template: str, view: str, phrase: str) -> str:
    return template.format(view, phrase) if template.count("{}") == 2 else template.format(phrase)


def _choose_phrase(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
