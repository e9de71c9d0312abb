"""An archive of synthetic films with labels, on fakes: each finding is a bright patch at its own position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adapters.ml.activation_cache import ActivationCacheSettings
from adapters.ml.trainer import ClipTrainer, TrainerSettings
from adapters.storage.model_store import ModelStore
from models.training.column_choice import ColumnChoiceSettings
from models.training.recipe import Augmentation, Recipe
from models.training.training_round import TrainingMethod, TrainingPlan
from pipeline import learn, rules
from pipeline.consensus import LabelPolicy
from pipeline.domain import (
    Header,
    Image,
    Label,
    LabelExposure,
    LabelState,
    ModelVersion,
    Sender,
    StoredFile,
    StoredInstance,
    StudyState,
)
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.ports.services import StageCallback
from tests.builders import tiny
from tests.builders.fakes.catalog import FakeCatalog

PLACES = {"Effusion": (slice(40, 60), slice(4, 24)), "Mass": (slice(4, 24), slice(36, 56))}
RECIPE = Recipe(k=1, max_steps=10, augmentation=Augmentation(views=2))


class Films:
    """ports.ImageReader: the findings of a study determine its film. `broken`: studies that cannot be read."""

    def __init__(self) -> None:
        self.shown: dict[str, set[str]] = {}
        self.broken: set[str] = set()
        self.asked: list[str] = []

    def read(self, instance: StoredInstance) -> Image:
        uid = instance.header.study_instance_uid
        self.asked.append(uid)
        if uid in self.broken:
            raise PixelsUnreadable(f"instance {instance.header.sop_instance_uid}: no image can be made of it")
        rng = np.random.default_rng(int(uid.rsplit(".", 1)[1]))
        film = 0.3 + 0.1 * rng.random((64, 64), dtype=np.float32)
        for finding in self.shown.get(uid, set()):
            film[PLACES[finding]] += 0.4
        return film

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        raise NotImplementedError("training reads whole images")


class Ward:
    """A catalog with a serving zero-shot version of an untrained tiny CLIP, and a trainer for it."""

    def __init__(self, root: Path, *, method: TrainingMethod = "auto") -> None:
        self.catalog, self.films, self.store = FakeCatalog(), Films(), ModelStore(root / "models")
        self.zero_shot = tiny.served(root / "models", catalog=self.catalog)
        self.gate = rules.GatePolicy(min_patients=8, min_confidence=0.8, promote="auto")
        columns = ColumnChoiceSettings(confidence=0.6)  # one finding on a dozen images is little evidence
        self.plan = TrainingPlan(method=method, recipe=RECIPE, columns=columns, max_folds=4)
        self.kept: ActivationCacheSettings | None = None
        self.stages: list[str] = []

    def study(self, number: int, *shown: str, patient: str = "") -> str:
        """Add a study with one instance to the archive; return its UID."""
        uid = f"1.{number}"
        header = Header(
            study_instance_uid=uid,
            sop_instance_uid=f"{uid}.1",
            series_instance_uid=f"{uid}.9",
            sop_class_uid=rules.DIGITAL_X_RAY_FOR_PRESENTATION,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient_id=patient or f"P{number}",
            view_position="PA",
            body_part_examined="CHEST",
            has_pixels=True,
        )
        with self.catalog.begin() as tx:
            file = StoredFile(f"{number}.dcm", f"{number:064x}", 1)
            tx.studies.add_instance(header, file, Sender("PACS", "h", "US"), opens_study=True)
            tx.studies.put_state(uid, StudyState.REPORTED)
        self.films.shown[uid] = set(shown)
        return uid

    def label(self, uid: str, said: Mapping[str, bool], *, because: str = "", exposure: LabelExposure = LabelExposure.NONE) -> None:
        """Label findings of a study as present or absent."""
        states = {True: LabelState.PRESENT, False: LabelState.ABSENT}
        with self.catalog.begin() as tx:
            tx.labels.append(
                [
                    Label(
                        study_instance_uid=uid,
                        finding=finding,
                        state=states[present],
                        reader="alice",
                        source="test",
                        stated_at=tx.now(),
                        selection_reason=because,
                        exposure=exposure,
                    )
                    for finding, present in said.items()
                ]
            )

    def labelled(
        self,
        count: int,
        *,
        findings: tuple[str, ...] = ("Effusion",),
        start: int = 1,
        exposure: LabelExposure = LabelExposure.NONE,
    ) -> None:
        """Add labelled studies, each of another patient; every second one shows all these findings."""
        for number in range(start, start + count):
            shows = number % 2 == 0
            uid = self.study(number, *(findings if shows else ()))
            self.label(uid, dict.fromkeys(findings, shows), exposure=exposure)

    def trainer(self) -> ClipTrainer:
        kept = replace(self.kept, k=self.plan.recipe.k) if self.kept else None
        settings = TrainerSettings(
            plan=self.plan, min_positives=3, undetermined_margin=0.05, device="cpu", threads=1, cache_settings=kept
        )
        return ClipTrainer(self.store, self.films, settings)

    def learn(self, *, again: bool = False, watch: StageCallback | None = None) -> learn.LearnOutcome:
        policy = learn.LearnPolicy(
            labels=LabelPolicy(), chest=rules.ChestPolicy(), gate=self.gate, min_positives=3, unlabelled_studies=50
        )
        return learn.learn(
            catalog=self.catalog,
            trainer=self.trainer(),
            policy=policy,
            on_progress=watch or (lambda what, done, total: self.stages.append(what)),
            relearn=again,
        )

    def versions(self) -> list[ModelVersion]:
        with self.catalog.read() as tx:
            return tx.versions.all()

    def image(self, uid: str) -> Image:
        with self.catalog.read() as tx:
            return self.films.read(tx.studies.instances(uid)[0])
