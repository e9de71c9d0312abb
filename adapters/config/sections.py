"""Configuration: one TOML file, overridden by environment variables RADCLIPD_SECTION__KEY.

Every key has a default; `deploy/radclipd.toml` lists all keys, held to this module by a test. `load` reads the configuration; its
errors are one line that names file, line, key and nearest key, with the remedy as hint. Sections are frozen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from adapters.config import cross_checks, file, types
from adapters.config.crontab import check_crontab
from adapters.config.types import (
    AbsolutePath,
    AeTitle,
    AeTitles,
    Callers,
    CertificateNames,
    Fraction,
    Host,
    OptionalAeTitle,
    OptionalPort,
    PeerAddresses,
    Port,
    PositiveFraction,
    PositiveInteger,
    PositiveSeconds,
    Seconds,
    SecretFile,
    Section,
    StringTuple,
    VisibleTuple,
)
from pipeline.domain import DeliveryMode, VisibleKind
from pipeline.errors import ConfigurationError

DEFAULT_PATH = Path("/etc/radclipd/radclipd.toml")
ENVIRONMENT_PREFIX = "RADCLIPD_"
ENVIRONMENT_DELIMITER = "__"


class ListenerConfig(Section):
    """[listener]: the DICOM storage service provider."""

    host: Host = Field(default="0.0.0.0", description="Address to listen on; 127.0.0.1: this host only.")
    port: Port = Field(default=11112, description="TCP port to listen on; a socket passed by systemd takes precedence.")
    ae_title: AeTitle = Field(default="RADCLIPD", description="AE title of this daemon.")
    called_ae_titles: AeTitles = Field(
        default=(), description='Called AE titles that are accepted; empty: ae_title only; ["*"]: any.'
    )
    calling_ae_titles: Callers = Field(
        default=("ORTHANC",),
        min_length=1,
        description='Calling AE titles that are accepted, alone or with addresses: "CT1@10.20.0.0/16"; ["*"]: any.',
    )
    tls_port: OptionalPort = Field(default=0, description="TCP port for DICOM TLS beside the other port, usually 2762; 0: none.")
    require_tls: bool = Field(
        default=False, description="Refuse every association on the port without TLS but the daemon's own check of it."
    )
    processes: PositiveInteger = Field(
        default=2, description="Processes that share the port; more than one is faster when several senders connect at once."
    )
    max_associations: PositiveInteger = Field(
        default=32, description="Association limit; further senders wait in the queue until an association ends."
    )
    max_pdu: Annotated[int, AfterValidator(types.check_pdu_length)] = Field(
        default=types.UNLIMITED_PDU, description="Maximum PDU length that is accepted, bytes; 0: unlimited."
    )
    storage_commitment: bool = Field(
        default=False,
        description="Commit to senders (N-ACTION) what is stored here: they may delete it then, so this host must be backed up.",
    )
    commitment_peers: PeerAddresses = Field(
        default={},
        description='Addresses for the results, by AE title: { CT1 = "10.20.1.7:104" }; others get theirs on the same association.',
    )
    other_storage: Literal["refuse", "keep"] = Field(
        default="refuse",
        description='Storage SOP classes other than radiographs, SR, KOS and presentation states: "refuse" or "keep".',
    )
    network_timeout_seconds: PositiveSeconds = Field(
        default=60, description="Seconds without data from the peer after which an association is aborted."
    )
    first_message_seconds: PositiveSeconds = Field(
        default=10,
        description="Seconds in which a connection must request its association, and an association send its first message.",
    )
    drain_seconds: Seconds = Field(default=30, description="Seconds that a stop waits for open associations before it aborts them.")


class ArchiveConfig(Section):
    """[archive]: the archive that receives the reports and is queried for a study's instance count."""

    ae_title: AeTitle = Field(default="ORTHANC", description="AE title of the archive that receives the reports.")
    host: Host = Field(default="127.0.0.1", description="Host name or address of the archive.")
    port: Port = Field(default=4242, description="DICOM port of the archive.")
    calling_ae_title: OptionalAeTitle = Field(
        default="", description="Calling AE title of this daemon at the archive; empty: listener.ae_title."
    )
    timeout_seconds: PositiveSeconds = Field(
        default=30, description="Seconds to wait for a connection or an answer of the archive."
    )
    tls: bool = Field(default=False, description="Use DICOM TLS to the archive, with the files of [tls].")
    verification: Literal["query", "commitment", "none"] = Field(
        default="query",
        description='Proof that a sent object has stayed: "query" (C-FIND), "commitment" (N-ACTION; else a query) or "none".',
    )
    verify_seconds: PositiveSeconds = Field(
        default=600, description="Seconds in which the archive must hold an object that it has accepted; else it is sent again."
    )
    reconcile_cron: Annotated[str, AfterValidator(check_crontab)] = Field(
        default="10 3 * * *",
        description='Schedule of the search for objects that the archive has lost: a line as in crontab(5), UTC; "": never.',
    )
    reconcile_days: PositiveInteger = Field(default=30, description="Days for which sent objects are searched for.")


class TlsConfig(Section):
    """[tls]: certificates of DICOM TLS, for listener.tls_port and archive.tls. A changed file is used at the next connection."""

    certificate_file: SecretFile = Field(
        default="",
        description="File of our certificate, then its intermediate authorities, PEM; a bare name is a systemd credential.",
    )
    key_file: SecretFile = Field(default="", description="File of the certificate's private key, PEM, without a password.")
    ca_file: SecretFile = Field(
        default="", description="File of the authorities, or single certificates, that peers are trusted by, PEM."
    )
    profile: Literal["bcp195", "modified-bcp195"] = Field(
        default="bcp195", description='Secure transport connection profile: "bcp195" (PS3.15 B.12) or "modified-bcp195" (B.13).'
    )
    peers: CertificateNames = Field(
        default={},
        description='Certificates by AE title, { CT1 = ["ct1.example"] }: names in it, or "sha256:HEX"; empty: any trusted one.',
    )
    warn_days: PositiveInteger = Field(default=30, description="Days before the end of a certificate from which check warns.")

    @field_validator("ca_file")
    @classmethod
    def _require_all_files(cls, value: str, info: ValidationInfo) -> str:
        files = [info.data.get("certificate_file", ""), info.data.get("key_file", ""), value]
        if any(files) and not all(files):
            raise ValueError("certificate_file, key_file and ca_file belong together: name all or none")
        return value


class StorageConfig(Section):
    """[storage]: the received files."""

    directory: AbsolutePath = Field(default=Path("/var/lib/radclipd/images"), description="Folder of the received DICOM files.")
    min_free: ByteSize = Field(
        default=ByteSize(2 << 30),
        description="Free disk space below which instances are refused with status A700 (out of resources).",
    )
    slow_free: ByteSize = Field(
        default=ByteSize(0),
        description="Free disk space below which senders are slowed, the more the less there is; 0: never.",
    )
    warn_free: ByteSize = Field(
        default=ByteSize(0), description="Free disk space below which log and `radclipd check` warn; 0: never."
    )
    conflicts: Literal["refuse", "keep"] = Field(
        default="refuse",
        description='Another image under a known SOP Instance UID: "refuse" (C001), or "keep" beside the first for a person.',
    )


class RetentionConfig(Section):
    """[retention]: how long image files are kept. The archive has them; labelled and requested studies keep theirs."""

    min_free: ByteSize = Field(
        default=ByteSize(0),
        description="Free disk space below which image files of reported studies are deleted, the oldest first; 0: none.",
    )
    fetch: Literal["get", "move", "off"] = Field(
        default="get",
        description='How deleted files that somebody needs come back from [archive]: "get" (C-GET), "move" (C-MOVE) or "off".',
    )
    dicomweb_url: str = Field(
        default="", description="URL of the archive's DICOMweb service, which is asked in place of C-GET or C-MOVE; empty: none."
    )
    min_days: Seconds = Field(default=90, description="Days after its last report for which a study keeps its files in any case.")


class CatalogConfig(Section):
    """[catalog]: the database. After `load`, `url` is the URL in use, from `url` or from `url_file`."""

    url: Annotated[str, AfterValidator(types.check_database_url)] = Field(
        default="sqlite:////var/lib/radclipd/radclipd.db",
        repr=False,
        description="Database: sqlite:////absolute/path or postgresql+psycopg://user@host/name.",
    )
    url_file: str = Field(
        default="", description="File that holds the URL instead, for a URL with a password; a bare name is a systemd credential."
    )
    busy_timeout_seconds: PositiveSeconds = Field(default=30, description="SQLite: seconds that a writer waits for the write lock.")


class StudyConfig(Section):
    """[study]: when a study is complete, and which of its images are scored."""

    stable_age_seconds: Seconds = Field(
        default=60, description="Seconds without a new instance after which a study is complete (Orthanc: StableAge)."
    )
    settle_on_release: bool = Field(
        default=False, description="Complete a study at once when the association that sent it is released."
    )
    ask_archive: bool = Field(
        default=False, description="Complete a study when the archive's own instance count is reached (C-FIND)."
    )
    no_view_position: Literal["score", "ignore"] = Field(
        default="score", description='Images without a view position: "score" or "ignore".'
    )
    no_body_part: Literal["score", "ignore"] = Field(
        default="score", description='Images without a body part: "score" or "ignore".'
    )
    for_processing: Literal["ignore", "score"] = Field(
        default="ignore", description='Raw images (FOR PROCESSING): "ignore" or "score".'
    )


class ModelConfig(Section):
    """[model]: folder of the model versions, and the device that runs them."""

    directory: AbsolutePath = Field(default=Path("/var/lib/radclipd/models"), description="Folder of the model versions.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description='"auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".',
    )


class ScoreConfig(Section):
    """[score]: from images to probabilities and decisions."""

    batch_size: PositiveInteger = Field(default=16, description="Images per forward pass of the encoder.")
    claim_seconds: PositiveSeconds = Field(
        default=1, description="Target duration of one claim of score jobs; a new arrival waits at most about this long."
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of the encoder; 0: one per core.")
    decode_processes: int = Field(default=0, ge=0, description="Processes that decode images; 0: one per core, at most 8.")
    decode_seconds: PositiveSeconds = Field(
        default=60, description="Time limit for decoding one image; beyond it the image is unreadable."
    )
    decode_memory: ByteSize = Field(
        default=ByteSize(2 << 30),
        ge=512 << 20,
        description="Memory limit of a process that decodes images; an image that needs more is unreadable.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description='"auto" (bfloat16 if the hardware supports it and the scores agree with float32), "float32" or "bfloat16".',
    )
    aggregate: Literal["max", "mean"] = Field(
        default="max", description='Score of a study with several images: "max" or "mean" of their scores.'
    )
    rescore: bool = Field(
        default=True, description="Score the archive again when another version is promoted, with lower priority than arrivals."
    )


class DecisionConfig(Section):
    """[decision]: what is told of a finding, and from when on. Priors of ranks: learn.prior_prevalence."""

    min_reference_studies: PositiveInteger = Field(
        default=200,
        description="Scored studies before a finding that was not learnt is assessed, and of a view that has its own ranks.",
    )
    max_reference_studies: PositiveInteger = Field(
        default=2000, description="Maximum number of studies, the newest, in a reference distribution."
    )
    call_rate: Annotated[dict[str, Fraction], AfterValidator(types.check_findings)] = Field(
        default={},
        description="Share of studies in which a finding not yet learnt may be called, { Hernia = 0.001 }; default: its prior.",
    )
    assumed_auc: float = Field(
        default=0.7,
        gt=0.5,
        lt=1,
        description="AUC that the likelihood of a rank rests on, for findings that were not learnt.",
    )
    undetermined_margin: float = Field(
        default=0.4,
        ge=0,
        allow_inf_nan=False,
        description="Log-odds below its operating point in which a learnt finding is undetermined.",
    )
    min_age_years: int = Field(default=16, ge=0, description="Younger patients are not assessed; 0: every age.")
    unknown_age: Literal["assess", "withhold"] = Field(
        default="assess", description='Studies whose header states no age: "assess" or "withhold" (not assessed).'
    )


class ActivationCacheConfig(Section):
    """[activation_cache]: activations that enter the first unfrozen block, stored for each image, for learning and re-scoring."""

    enabled: bool = Field(default=True, description="Store activations: learning and re-scoring then decode no pixels.")
    directory: AbsolutePath = Field(
        default=Path("/var/lib/radclipd/activations"), description="Folder of the cache; it may be deleted at any time."
    )
    max_size: ByteSize = Field(
        default=ByteSize(10 << 30),
        description="Maximum size on disk; 80 KiB per image with ViT-B; the oldest images are evicted first.",
    )
    warm: bool = Field(
        default=True,
        description="When idle, compute activations for images that were scored and are not in the cache, newest first.",
    )


class ReportConfig(Section):
    """[report]: the DICOM SR, and whether it leaves."""

    deliver: DeliveryMode = Field(
        default=DeliveryMode.ALL,
        description='Reports: "none" (only scores are kept), "shadow" (built and kept, nothing leaves) or "all" (sent).',
    )
    silent_share: Fraction = Field(
        default=0.05,
        description="Share of the patients, at random, whose reports are never sent: their labels are given without the result.",
    )
    sop_class: Literal["comprehensive-3d", "comprehensive", "enhanced"] = Field(
        default="comprehensive-3d", description='SR storage SOP class: "comprehensive-3d", "comprehensive" or "enhanced".'
    )
    uid_root: Annotated[str, AfterValidator(types.check_uid_root)] = Field(
        default="", description="Root of the generated UIDs; empty: 2.25 (UUID-derived)."
    )
    language: Annotated[str, AfterValidator(types.check_language)] = Field(
        default="en", description='Language of the words in reports: "en" or "de".'
    )
    include_absent: bool = Field(
        default=True, description="Report absent findings too; false: only in a study where every finding is absent."
    )
    rescored_studies: Literal["all", "changed", "none"] = Field(
        default="changed", description='Re-scored studies that get another SR: "all", "changed" (a decision differs) or "none".'
    )
    manufacturer: str = Field(
        default="radclipd", min_length=1, max_length=64, description="Manufacturer in the SR's equipment module."
    )
    institution_name: str = Field(default="", max_length=64, description="Institution Name in the SR; empty: omitted.")
    series_number: int = Field(
        default=9001, ge=1, le=2**31 - 8, description="Series Number of the reports; their visible objects have the next ones."
    )
    visible: VisibleTuple = Field(
        default=(VisibleKind.TEXT,),
        description='Objects that viewers show, sent beside the SR: "text" (Basic Text SR), "card" (Secondary Capture).',
    )
    card_modality: str = Field(
        default="OT", pattern=r"^[A-Z0-9_ ]{1,16}$", description="Modality of the card; with CR or DX archives route it as a film."
    )


class LabelsConfig(Section):
    """[labels]: statements of readers, and their consensus."""

    policy: Literal["newest", "majority", "adjudicator"] = Field(
        default="newest", description='Consensus of readers who disagree: "newest", "majority" or "adjudicator".'
    )
    adjudicators: StringTuple = Field(
        default=(), description='Readers whose labels decide if policy = "adjudicator", in order of precedence.'
    )
    missed: float = Field(default=0.05, gt=0, lt=0.5, description="Share of present findings that a reader misses.")
    invented: float = Field(default=0.02, gt=0, lt=0.5, description="Share of absent findings that a reader calls present.")
    accept_sr: Literal["person-or-verified", "verified", "none"] = Field(
        default="person-or-verified", description='SRs that are read for labels: "person-or-verified", "verified" or "none".'
    )
    key_object_titles: Annotated[dict[str, str], AfterValidator(types.check_document_titles)] = Field(
        default={},
        description='Key objects that are read for labels, by the code of their title: { "113000,DCM" = "Mass=present" }.',
    )

    @field_validator("adjudicators")
    @classmethod
    def _require_adjudicators(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("policy") == "adjudicator" and not value:
            raise ValueError('policy = "adjudicator" needs a name here')
        return value


class LearnConfig(Section):
    """[learn]: from labels to a candidate version, and the gate that the candidate must pass."""

    method: Literal["auto", "stage-1", "partial"] = Field(
        default="auto", description='"stage-1" (frozen encoder), "partial" (last blocks unfrozen) or "auto" (the better one).'
    )
    unfrozen_blocks: int = Field(default=2, ge=0, description="Number of the encoder's last blocks that are unfrozen.")
    devices: Literal["auto"] | PositiveInteger = Field(
        default="auto",
        description='GPUs, or CPU processes, that train the unfrozen blocks: "auto" (all GPUs of model.device) or a number.',
    )
    min_positives: float = Field(
        default=3.0,
        ge=1,
        description="Minimum number of true positive studies of a finding to be learnt, expected from labels and readers' errors.",
    )
    folds: int = Field(
        default=5, ge=2, description="Patient-wise cross-validation folds; with fewer patients: leave one patient out."
    )
    unlabelled_studies: int = Field(
        default=1000, ge=0, description="Newest studies whose images, without labels, estimate the variation between images."
    )
    seen_present_weight: PositiveFraction = Field(
        default=1.0, description="Weight in training of a present finding whose reader had seen the model's result."
    )
    seen_absent_weight: PositiveFraction = Field(
        default=0.5, description="Weight in training of an absent finding whose reader had seen the model's result."
    )
    possible_absent_weight: PositiveFraction = Field(
        default=0.75, description="Weight in training of an absent finding whose reader may have seen the model's result."
    )
    prior_prevalence: Annotated[dict[str, Fraction], AfterValidator(types.check_findings)] = Field(
        default={}, description="Prevalence of findings at this hospital, { Hernia = 0.004 }; of others: the share in ChestX-ray14."
    )
    operating_point: Literal["specificity", "even-odds"] = Field(
        default="specificity", description='Thresholds of a learnt version: by "specificity" and max_calls, or at "even-odds".'
    )
    specificity: Fraction = Field(
        default=0.98, description="Minimum share of absent findings below the threshold, estimated on the archive."
    )
    max_calls: float = Field(
        default=2.0,
        gt=0,
        description="Maximum share of images in which a finding is called present, in multiples of its prevalence.",
    )
    seed: int = Field(default=0, ge=0, description="Random seed; the same seed and labels give the same weights.")
    cron: Annotated[str, AfterValidator(check_crontab)] = Field(
        default="30 2 * * *", description='Schedule of the check for new labels: a line as in crontab(5), UTC; "": never.'
    )
    min_new_labels: PositiveInteger = Field(
        default=20, description="Minimum number of new labels for a scheduled round of learning."
    )
    promote: Literal["auto", "manual"] = Field(
        default="manual", description='A candidate that passes the gate: "manual" waits for a person, "auto" serves at once.'
    )
    min_gate_patients: PositiveInteger = Field(
        default=10, description="Minimum number of patients that a candidate is measured on."
    )
    gate_confidence: Fraction = Field(
        default=0.9, description="Confidence, at the first look, that a candidate's mean AUC is not worse by .005 or more."
    )


class WorklistConfig(Section):
    """[worklist]: which studies to label next. Shares are of a list, on average; they need not add up to 1."""

    positives: Fraction = Field(
        default=0.35, description="Share for likely positives of the findings with the fewest positive labels."
    )
    disagreement: Fraction = Field(
        default=0.05, description="Share for studies that the serving version and zero-shot rank most differently."
    )
    uncertainty: Fraction = Field(default=0.05, description="Share for studies with the highest entropy of the serving version.")
    coverage: Fraction = Field(
        default=0.45, description="Share for studies unlike every labelled study; rare findings are found there."
    )
    monitoring: Fraction = Field(
        default=0.1, description="Share drawn at random for measurement only; patients of these studies are never learnt from."
    )
    second_readings: Fraction = Field(
        default=0.05, description="Share for studies with a label that everything else contradicts: read again, by another reader."
    )
    max_patients: PositiveInteger = Field(
        default=20_000,
        description="Maximum number of candidate patients; of a larger archive a random sample of this size is used.",
    )
    request_expiry_days: PositiveInteger = Field(
        default=90, description="Days after which an unanswered request no longer excludes the other studies of its patient."
    )
    seed: int = Field(default=0, ge=0, description="Random seed; the same seed, archive and labels give the same list.")

    @field_validator("monitoring")
    @classmethod
    def _require_positive_share(cls, value: float, info: ValidationInfo) -> float:
        if not value + sum(info.data.get(share, 1.0) for share in ("positives", "disagreement", "uncertainty", "coverage")):
            raise ValueError("at least one share must be above 0")
        return value


class BackfillConfig(Section):
    """[backfill]: import of an existing archive by `radclipd backfill`."""

    reports: Literal["none", "all"] = Field(
        default="none", description='SRs for imported studies: "none" (scores are in the catalog only) or "all".'
    )
    modalities: StringTuple = Field(
        default=("CR", "DX"),
        min_length=1,
        description="Modalities of the series that are requested; add SR and KO to import labels.",
    )
    days_per_query: PositiveInteger = Field(default=7, description="Study days per query.")
    max_instances_per_minute: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="Rate limit, instances per minute; 0: none."
    )
    max_bytes_per_second: ByteSize = Field(default=ByteSize(0), description="Rate limit, bytes per second on average; 0: none.")
    authorization_file: str = Field(
        default="",
        description="File that holds the Authorization header for the archive's URL; a bare name is a systemd credential.",
    )
    timeout_seconds: PositiveSeconds = Field(
        default=60, description="Seconds to wait for a connection or an answer of the archive."
    )


class WorkConfig(Section):
    """[work]: jobs, leases, retries and the circuit breaker."""

    lease_seconds: PositiveSeconds = Field(
        default=120, description="Seconds without a heartbeat after which a worker loses its job to another worker."
    )
    max_attempts: PositiveInteger = Field(
        default=8, description="Attempts before a job is quarantined (radclipd jobs list --state quarantined)."
    )
    retry_base_seconds: PositiveSeconds = Field(
        default=2, description="Maximum back-off before the second attempt; doubles with each attempt."
    )
    retry_cap_seconds: PositiveSeconds = Field(default=3600, description="Maximum back-off between two attempts.")
    circuit_threshold: PositiveInteger = Field(
        default=3, description="Consecutive failures to reach the archive that open the circuit breaker."
    )
    circuit_open_seconds: PositiveSeconds = Field(
        default=30, description="Seconds that the circuit breaker stays open before one job tries the archive again."
    )
    poll_seconds: PositiveSeconds = Field(default=0.5, description="Interval at which an idle worker polls for jobs.")
    keep_done_days: Seconds = Field(default=30, description="Days after which finished jobs are deleted.")
    max_score_seconds: PositiveSeconds = Field(
        default=3600,
        description="Seconds without a scored study after which a scorer is ended; its jobs are tried again, then quarantined.",
    )
    max_report_seconds: PositiveSeconds = Field(
        default=300, description="Seconds after which the building of a report is ended and its job quarantined."
    )
    max_send_seconds: PositiveSeconds = Field(
        default=1800, description="Seconds after which the sending of a report is ended and its job quarantined."
    )
    max_label_seconds: PositiveSeconds = Field(
        default=120, description="Seconds after which the reading of a received SR or KOS is ended and its job quarantined."
    )
    max_learn_seconds: PositiveSeconds = Field(
        default=604_800, description="Seconds after which a round of learning is ended and its job quarantined."
    )


class MetricsConfig(Section):
    """[metrics]: Prometheus metrics, served by the dispatcher. They name no patient, study or reader."""

    enabled: bool = Field(default=False, description="Serve metrics at http://ADDRESS:PORT/metrics.")
    address: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; there is no password, so keep it off open networks."
    )
    port: Port = Field(default=9612, description="TCP port to listen on; the dispatcher of each host needs its own.")


class AuditConfig(Section):
    """[audit]: delivery of the audit table to the hospital's audit repository, as DICOM audit messages over syslog and TLS."""

    syslog_host: Annotated[str, AfterValidator(types.check_optional_host)] = Field(
        default="", description='Host of the audit repository; its certificate must name it; "": no delivery.'
    )
    syslog_port: Port = Field(default=6514, description="TCP port of the audit repository.")
    syslog_ca_file: str = Field(
        default="",
        description="File of the authorities that may sign the repository's certificate, PEM; empty: those of the system.",
    )
    syslog_certificate_file: str = Field(
        default="", description="File of our own certificate and its chain, PEM, where the repository asks for one."
    )
    syslog_key_file: str = Field(default="", description="File of the certificate's private key, PEM.")
    enterprise_site: str = Field(default="", description="Name of the hospital in the messages (AuditEnterpriseSiteID).")
    tell_patient_id: bool = Field(default=False, description="Messages name the Patient ID in place of the pseudonym.")

    @field_validator("syslog_key_file")
    @classmethod
    def _require_both(cls, value: str, info: ValidationInfo) -> str:
        if bool(value) != bool(info.data.get("syslog_certificate_file")):
            raise ValueError("syslog_certificate_file and syslog_key_file belong together: name both or none")
        return value


class ExportConfig(Section):
    """[export]: de-identified research sets by `radclipd export`."""

    burned_in: Literal["refuse", "mask", "pass"] = Field(
        default="refuse",
        description='Images that may have text burned in: "refuse", "mask" (mask_regions of every image), or "pass".',
    )
    mask_regions: types.RegionTuple = Field(
        default=(), description='Regions to paint over, as "left,top,right,bottom" in shares of width and height: "0,0,1,0.08".'
    )

    @field_validator("mask_regions")
    @classmethod
    def _check_regions(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for region in value:
            types.parse_region(region)
        if not value and info.data.get("burned_in") == "mask":
            raise ValueError('burned_in = "mask" needs a region here')
        return value


class WebConfig(Section):
    """[web]: the desk, pages for readers and engineers. It needs the extra radclipd[web]."""

    enabled: bool = Field(
        default=False, description="Serve the desk as a role of radclipd run; radclipd users add makes its users."
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on; another than loopback needs TLS.")
    port: Port = Field(default=8640, description="TCP port to listen on.")
    tls_certificate_file: str = Field(default="", description="File of the TLS certificate and its chain, PEM; empty: no TLS.")
    tls_key_file: str = Field(default="", description="File of the certificate's private key, PEM.")
    behind_tls_proxy: bool = Field(
        default=False, description="A proxy in front of the desk ends TLS: allows another address than loopback without TLS here."
    )
    directory: AbsolutePath = Field(
        default=Path("/var/lib/radclipd/web"),
        description="Folder of the secret that signs sessions; it is made on the first start.",
    )
    session_idle_seconds: PositiveSeconds = Field(
        default=28_800, description="Seconds without a request after which a session ends."
    )
    second_reading: Fraction = Field(
        default=0.1,
        description="Share of the studies read at the desk, at random, that a second reader reads without seeing the first.",
    )
    repeated_reading: Fraction = Field(
        default=0.03, description="Share of the studies, at random, that come to their reader a second time, to measure the reader."
    )
    repeat_days: float = Field(default=7.0, ge=0, description="Days from a reading to its repeat.")
    reader_documents: bool = Field(
        default=False, description="Send what a reader says at the desk to the archive, as an SR of that person (TID 1500)."
    )
    film_cache: ByteSize = Field(default=ByteSize(256 << 20), description="Memory for the films that were shown last.")

    @field_validator("behind_tls_proxy")
    @classmethod
    def _require_tls(cls, value: bool, info: ValidationInfo) -> bool:
        host, certificate, key = (info.data.get(name, "") for name in ("host", "tls_certificate_file", "tls_key_file"))
        if bool(certificate) != bool(key):
            raise ValueError("tls_certificate_file and tls_key_file belong together: name both or none")
        if not value and not certificate and not types.is_loopback(host):
            raise ValueError(
                f"host = {host!r} is no loopback address: set tls_certificate_file and tls_key_file, or behind_tls_proxy = true"
            )
        return value

    @property
    def has_tls(self) -> bool:
        """Whether browsers reach the desk by https."""
        return bool(self.tls_certificate_file) or self.behind_tls_proxy


class LogConfig(Section):
    """[log]: events of the daemon. They name no patient."""

    format: Literal["auto", "journald", "json", "console"] = Field(
        default="auto", description='"auto" (chosen by the kind of standard error), "journald", "json" or "console".'
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
    tls: TlsConfig = Field(default_factory=TlsConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    catalog: CatalogConfig = Field(default_factory=CatalogConfig)
    study: StudyConfig = Field(default_factory=StudyConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)
    decision: DecisionConfig = Field(default_factory=DecisionConfig)
    activation_cache: ActivationCacheConfig = Field(default_factory=ActivationCacheConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    labels: LabelsConfig = Field(default_factory=LabelsConfig)
    learn: LearnConfig = Field(default_factory=LearnConfig)
    worklist: WorklistConfig = Field(default_factory=WorklistConfig)
    backfill: BackfillConfig = Field(default_factory=BackfillConfig)
    work: WorkConfig = Field(default_factory=WorkConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    web: WebConfig = Field(default_factory=WebConfig)
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
        """Return the sources, first precedence first: the environment, then the file, whose content `load` passes in."""
        return env_settings, init_settings


def section_classes() -> dict[str, type[Section]]:
    """Return the section classes by name, in the order of the file."""
    annotations = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: cls for name, cls in annotations.items() if isinstance(cls, type) and issubclass(cls, Section)}


def key_descriptions() -> dict[str, str]:
    """Return every dotted key with its description."""
    return {
        f"{section}.{key}": field.description or ""
        for section, cls in section_classes().items()
        for key, field in cls.model_fields.items()
    }


def load(path: Path | None = None) -> Config:
    """Read the file (None: $RADCLIPD_CONFIG, else DEFAULT_PATH) and the environment. ConfigurationError names the faulty key."""
    origin = _read_origin(path)
    content = file.parse(origin)
    file.refuse_unknown_variables(origin, list(section_classes()), key_descriptions())
    try:
        config = Config(**content)
    except ValidationError as error:
        raise file.translate_validation_error(error, origin, key_descriptions()) from error
    except SettingsError as error:
        raise ConfigurationError(f"environment: {error}", hint="write RADCLIPD_SECTION__KEY=value, one variable per key") from error
    cross_checks.require_tls_files(config, origin)
    cross_checks.require_rising_levels(config, origin)
    cross_checks.require_safekeeping(config, origin)
    return _apply_url_file(config, origin)


def read_authorization(config: Config, path: Path | None) -> str:
    """Return the content of `backfill.authorization_file`; "" if no file is named. ConfigurationError if it cannot be read."""
    if not config.backfill.authorization_file:
        return ""
    return file.read_secret(config.backfill.authorization_file, "backfill.authorization_file", _read_origin(path))


def _read_origin(path: Path | None) -> file.ConfigOrigin:
    path = path or Path(os.environ.get("RADCLIPD_CONFIG") or DEFAULT_PATH)
    return file.ConfigOrigin(path, file.read_text(path), ENVIRONMENT_PREFIX, ENVIRONMENT_DELIMITER)


def _apply_url_file(config: Config, origin: file.ConfigOrigin) -> Config:
    """Return the configuration with the content of `catalog.url_file`, if a file is named, as `catalog.url`."""
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
