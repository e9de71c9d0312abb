"""Configuration: one TOML file, overridden by environment variables RADCLIPD_SECTION__KEY.

Every key has a default; `deploy/radclipd.toml` lists them all and a test keeps it true. `load` is the way in; its errors are
one line that names file, line, key and nearest key, with the remedy as hint. Sections are frozen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from adapters.config import file, types
from adapters.config.backfill_config import BackfillConfig
from adapters.config.types import (
    AbsolutePath,
    AeTitle,
    AeTitles,
    Fraction,
    OptionalAeTitle,
    Port,
    PositiveInteger,
    PositiveSeconds,
    Seconds,
    Section,
    StringTuple,
    check_crontab,
)
from pipeline.errors import ConfigurationError

DEFAULT_PATH = Path("/etc/radclipd/radclipd.toml")
ENVIRONMENT_PREFIX = "RADCLIPD_"
ENVIRONMENT_DELIMITER = "__"


class ListenerConfig(Section):
    """[listener]: the DICOM storage service provider."""

    host: str = Field(default="0.0.0.0", min_length=1, description="Address to listen on; 127.0.0.1 for this host only.")
    port: Port = Field(default=11112, description="TCP port to listen on; a socket handed over by systemd takes precedence.")
    ae_title: AeTitle = Field(default="RADCLIPD", description="AE title of this daemon.")
    called_ae_titles: AeTitles = Field(default=(), description='AE titles that senders may call; empty: ae_title only; ["*"]: any.')
    calling_ae_titles: AeTitles = Field(default=("ORTHANC",), min_length=1, description='AE titles that may send; ["*"]: any.')
    processes: PositiveInteger = Field(
        default=2, description="Processes that share the port; more than one where senders come at once."
    )
    max_associations: PositiveInteger = Field(
        default=32, description="Associations served at once; further senders wait in the queue."
    )
    max_pdu: Annotated[int, AfterValidator(types.check_pdu_length)] = Field(
        default=types.UNLIMITED_PDU, description="Largest PDU accepted, bytes; 0: unlimited."
    )
    other_storage: Literal["refuse", "keep"] = Field(
        default="refuse", description='Storage classes that are no radiograph, SR, KOS or presentation state: "refuse" or "keep".'
    )
    network_timeout_seconds: PositiveSeconds = Field(
        default=60, description="A peer silent for this long within an association is cut off."
    )
    drain_seconds: Seconds = Field(default=30, description="How long a stop waits for open associations before it aborts them.")


class ArchiveConfig(Section):
    """[archive]: where reports go, and who is asked for a study's instance count."""

    ae_title: AeTitle = Field(default="ORTHANC", description="AE title of the archive that gets the reports.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Host name or address of the archive.")
    port: Port = Field(default=4242, description="DICOM port of the archive.")
    calling_ae_title: OptionalAeTitle = Field(default="", description="AE title we call ourselves there; empty: listener.ae_title.")
    timeout_seconds: PositiveSeconds = Field(default=30, description="How long to wait for the archive to connect or answer.")


class StorageConfig(Section):
    """[storage]: the received files."""

    directory: AbsolutePath = Field(default=Path("/var/lib/radclipd/images"), description="Folder of the received DICOM files.")
    min_free: ByteSize = Field(
        default=ByteSize(2 << 30), description="Disk guard: with less space free, senders are told to try later."
    )


class CatalogConfig(Section):
    """[catalog]: the database. After `load`, `url` is the URL to use, wherever it came from."""

    url: Annotated[str, AfterValidator(types.check_database_url)] = Field(
        default="sqlite:////var/lib/radclipd/radclipd.db",
        repr=False,
        description="Database: sqlite:////absolute/path or postgresql+psycopg://user@host/name.",
    )
    url_file: str = Field(
        default="", description="File that holds the URL instead, for one with a password; a bare name is a systemd credential."
    )
    busy_timeout_seconds: PositiveSeconds = Field(default=30, description="SQLite: how long a writer waits for its turn.")


class StudyConfig(Section):
    """[study]: when a study is complete and what of it is scored."""

    stable_age_seconds: Seconds = Field(default=60, description="A study is complete when nothing has come for this long.")
    settle_on_release: bool = Field(default=False, description="Complete at once when the association that carried it is released.")
    ask_archive: bool = Field(default=False, description="Complete as soon as the archive's own instance count is here (C-FIND).")
    no_view_position: Literal["score", "ignore"] = Field(
        default="score", description='Images that state no view: "score" or "ignore".'
    )
    no_body_part: Literal["score", "ignore"] = Field(
        default="score", description='Images that state no body part: "score" or "ignore".'
    )
    for_processing: Literal["ignore", "score"] = Field(
        default="ignore", description='Raw FOR PROCESSING images: "ignore" or "score".'
    )


class ModelConfig(Section):
    """[model]: where weights lie and what they run on."""

    directory: AbsolutePath = Field(default=Path("/var/lib/radclipd/models"), description="Folder of the model versions.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description='"auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".',
    )


class ScoreConfig(Section):
    """[score]: from images to probabilities and decisions."""

    batch_size: PositiveInteger = Field(default=16, description="Images per pass of the encoder.")
    claim_seconds: PositiveSeconds = Field(
        default=1, description="Studies are taken for about so long at a time; what arrives meanwhile waits no longer."
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of the encoder; 0: as many as there are cores.")
    decode_processes: int = Field(
        default=0, ge=0, description="Processes that decode films; 0: as many as there are cores, up to 8."
    )
    decode_seconds: PositiveSeconds = Field(default=60, description="A film that takes longer to decode cannot be read.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description='"auto" (bfloat16 where the processor or GPU has it and scores agree with float32), "float32" or "bfloat16".',
    )
    aggregate: Literal["max", "mean"] = Field(
        default="max", description='Several images of one study: "max" or "mean" of their scores.'
    )
    rescore: bool = Field(default=True, description="When another version serves, score the archive again, behind what arrives.")
    threshold: Fraction = Field(default=0.5, description="Present at or above, for versions without thresholds of their own.")
    undetermined_margin: float = Field(
        default=0.05, ge=0, le=0.5, description="Undetermined within this distance of the threshold."
    )


class ActivationCacheConfig(Section):
    """[prefix]: what enters the encoder's last blocks, kept for each image, for learning and for scoring the archive again."""

    enabled: bool = Field(default=True, description="Keep it: learning and scoring again then need no pixels.")
    directory: AbsolutePath = Field(
        default=Path("/var/lib/radclipd/prefixes"), description="Folder for it, a cache: it may be deleted at any time."
    )
    max_size: ByteSize = Field(
        default=ByteSize(10 << 30), description="Disk it may take; 77 KiB an image with ViT-B. The oldest images go first."
    )
    warm: bool = Field(default=True, description="When idle, make it for images that were scored before it was kept.")


class ReportConfig(Section):
    """[report]: the DICOM SR."""

    sop_class: Literal["comprehensive-3d", "comprehensive", "enhanced"] = Field(
        default="comprehensive-3d", description='SR storage class: "comprehensive-3d", "comprehensive" or "enhanced".'
    )
    uid_root: Annotated[str, AfterValidator(types.check_uid_root)] = Field(
        default="", description="Root of the UIDs we make; empty: 2.25 (UUID-derived)."
    )
    include_absent: bool = Field(
        default=True, description="Report findings that are absent, too; false: only in a study where all of them are."
    )
    rescored_studies: Literal["all", "changed", "none"] = Field(
        default="changed", description='Studies scored again that get another SR: "all", "changed" (a decision differs) or "none".'
    )
    manufacturer: str = Field(
        default="radclipd", min_length=1, max_length=64, description="Manufacturer in the SR's equipment module."
    )
    institution_name: str = Field(default="", max_length=64, description="Institution Name in the SR; empty: left out.")
    series_number: int = Field(default=9001, ge=1, le=2**31 - 1, description="Series Number of the reports.")


class LabelsConfig(Section):
    """[labels]: what readers say."""

    policy: Literal["newest", "majority", "adjudicator"] = Field(
        default="newest", description='Where readers disagree: "newest", "majority" or "adjudicator".'
    )
    adjudicators: StringTuple = Field(
        default=(), description='Readers whose word decides, first the first, where policy = "adjudicator".'
    )
    accept_sr: Literal["person-or-verified", "verified", "none"] = Field(
        default="person-or-verified", description='Reports read for labels: "person-or-verified", "verified" or "none".'
    )
    key_object_titles: Annotated[dict[str, str], AfterValidator(types.check_document_titles)] = Field(
        default={}, description='Key objects read for labels, by the code of their title: { "113000,DCM" = "Mass=present" }.'
    )

    @field_validator("adjudicators")
    @classmethod
    def _require_adjudicators(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("policy") == "adjudicator" and not value:
            raise ValueError('policy = "adjudicator" needs a name here')
        return value


class LearnConfig(Section):
    """[learn]: from labels to a candidate version, and what it must show to serve."""

    method: Literal["auto", "stage-1", "partial"] = Field(
        default="auto", description='"stage-1" (frozen encoder), "partial" (last blocks unfrozen) or "auto" (the better of both).'
    )
    unfrozen_blocks: int = Field(default=2, ge=0, description="How many of the encoder's last blocks are unfrozen.")
    devices: Literal["auto"] | PositiveInteger = Field(
        default="auto",
        description='GPUs that unfreeze them, or CPU processes: "auto" (every GPU that model.device allows) or a number.',
    )
    min_positives: int = Field(default=4, ge=2, description="Studies that must show a finding before it is learnt.")
    folds: int = Field(default=5, ge=2, description="Groups of patients that are held out in turn; fewer patients: one at a time.")
    unlabelled_studies: int = Field(
        default=1000, ge=0, description="Newest studies of the archive that are looked at for how films differ."
    )
    seed: int = Field(default=0, ge=0, description="Same seed and labels, same weights.")
    cron: Annotated[str, AfterValidator(check_crontab)] = Field(
        default="30 2 * * *", description='When the scheduler looks for new labels: a crontab line, UTC; "": never.'
    )
    min_new_labels: PositiveInteger = Field(default=20, description="It learns when at least so many statements are new.")
    promote: Literal["auto", "by-hand"] = Field(
        default="by-hand", description='A candidate that passes the gate: "by-hand" waits for a person, "auto" serves at once.'
    )
    min_gate_patients: PositiveInteger = Field(default=10, description="Patients that a candidate must have been measured on.")
    gate_confidence: Fraction = Field(default=0.9, description="Share of resamples in which a candidate must not be worse.")


class WorklistConfig(Section):
    """[worklist]: what is put before the readers next. Shares are of a list, on average; they need not add up to 1."""

    positives: Fraction = Field(default=0.35, description="Share that looks for positives of the findings that have fewest.")
    disagreement: Fraction = Field(default=0.05, description="Share that the serving version and zero-shot rank furthest apart.")
    uncertainty: Fraction = Field(default=0.05, description="Share on which the serving version is undecided.")
    typicality: Fraction = Field(default=0.0, description="Share that is typical of studies of which few were read.")
    coverage: Fraction = Field(default=0.45, description="Share that is unlike everything that was read: where rare findings are.")
    monitoring: Fraction = Field(
        default=0.1, description="Share drawn by lot: it only measures, its patients are never learnt from."
    )
    max_patients: PositiveInteger = Field(
        default=20_000, description="Of a larger archive so many patients, drawn by lot, are looked at."
    )
    request_expiry_days: PositiveInteger = Field(
        default=90, description="A study that nobody reads for so long keeps its patient's others off no more."
    )
    seed: int = Field(default=0, ge=0, description="Same seed, archive and labels, same list.")

    @field_validator("monitoring")
    @classmethod
    def _require_positive_share(cls, value: float, info: ValidationInfo) -> float:
        if not value + sum(
            info.data.get(share, 1.0) for share in ("positives", "disagreement", "uncertainty", "typicality", "coverage")
        ):
            raise ValueError("one share at least is above 0")
        return value


class WorkConfig(Section):
    """[work]: jobs, tries and rests."""

    lease_seconds: PositiveSeconds = Field(
        default=120, description="A worker that gives no sign for this long loses its job to another."
    )
    max_attempts: PositiveInteger = Field(
        default=8, description="Tries before a job is set aside for a person (radclipd quarantine)."
    )
    retry_base_seconds: PositiveSeconds = Field(default=2, description="Longest wait before the second try; doubles with each try.")
    retry_cap_seconds: PositiveSeconds = Field(default=3600, description="Longest wait between two tries.")
    circuit_threshold: PositiveInteger = Field(
        default=3, description="Failures in a row to reach the archive before sending rests."
    )
    circuit_open_seconds: PositiveSeconds = Field(
        default=30, description="How long sending rests before one job tries the archive again."
    )
    poll_seconds: PositiveSeconds = Field(default=0.5, description="How often an idle worker looks for a job.")
    keep_done_days: Seconds = Field(default=30, description="Finished jobs are forgotten after this many days.")


class MetricsConfig(Section):
    """[metrics]: figures for Prometheus, served by the dispatcher. They name no patient, study or reader."""

    enabled: bool = Field(default=False, description="Answer scrapes at http://ADDRESS:PORT/metrics.")
    address: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; there is no password, so keep it off open networks."
    )
    port: Port = Field(default=9612, description="TCP port for it; the dispatcher of each host needs one of its own.")


class LogConfig(Section):
    """[log]: lines about the work, never about the patient."""

    format: Literal["auto", "journald", "json", "console"] = Field(
        default="auto", description='"auto" (by where the lines go), "journald", "json" or "console".'
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description='"debug", "info", "warning" or "error".'
    )


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=ENVIRONMENT_DELIMITER,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    listener: ListenerConfig = Field(default_factory=ListenerConfig)
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    catalog: CatalogConfig = Field(default_factory=CatalogConfig)
    study: StudyConfig = Field(default_factory=StudyConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)
    activation_cache: ActivationCacheConfig = Field(default_factory=ActivationCacheConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    learn: LearnConfig = Field(default_factory=LearnConfig)
    worklist: WorklistConfig = Field(default_factory=WorklistConfig)
    backfill: BackfillConfig = Field(default_factory=BackfillConfig)
    work: WorkConfig = Field(default_factory=WorkConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content `load` passes in."""
        return env_settings, init_settings


def section_classes() -> dict[str, type[Section]]:
    """Return the section classes by name, in the order of the file."""
    found = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, Section)}


def key_descriptions() -> dict[str, str]:
    """Return every dotted key with its description."""
    return {
        f"{section}.{key}": field.description or ""
        for section, cls in section_classes().items()
        for key, field in cls.model_fields.items()
    }


def load(path: Path | None = None) -> Config:
    """Read the file (None: $RADCLIPD_CONFIG, else DEFAULT_PATH) and the environment. ConfigurationError says what is wrong."""
    origin = _read_origin(path)
    content = file.parse(origin)
    file.refuse_unknown_variables(origin, list(section_classes()))
    try:
        config = Config(**content)
    except ValidationError as error:
        raise file.translate_validation_error(error, origin, key_descriptions()) from error
    except SettingsError as error:
        raise ConfigurationError(f"environment: {error}", hint="write RADCLIPD_SECTION__KEY=value, one variable per key") from error
    return _apply_url_file(config, origin)


def read_authorization(config: Config, path: Path | None) -> str:
    """Return what `backfill.authorization_file` holds; "" where none is named. ConfigurationError."""
    if not config.backfill.authorization_file:
        return ""
    return file.read_secret(config.backfill.authorization_file, "backfill.authorization_file", _read_origin(path))


def _read_origin(path: Path | None) -> file.ConfigOrigin:
    path = path or Path(os.environ.get("RADCLIPD_CONFIG") or DEFAULT_PATH)
    return file.ConfigOrigin(path, file.read_text(path), ENVIRONMENT_PREFIX, ENVIRONMENT_DELIMITER)


def _apply_url_file(config: Config, origin: file.ConfigOrigin) -> Config:
    """Put the content of `catalog.url_file`, where one is named, in the place of `catalog.url`."""
    if not config.catalog.url_file:
        return config
    url = file.read_secret(config.catalog.url_file, "catalog.url_file", origin)
    try:
        catalog = CatalogConfig.model_validate(config.catalog.model_dump() | {"url": url})
    except ValidationError as error:
        raise ConfigurationError(
            f"{origin.location('catalog.url_file')}: {config.catalog.url_file} holds no database URL",
            hint="one line: sqlite:////absolute/path or postgresql+psycopg://user:password@host/name",
        ) from error
    return config.model_copy(update={"catalog": catalog})
