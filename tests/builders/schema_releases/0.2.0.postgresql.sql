CREATE FUNCTION public.audit_events_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'audit_events are append-only'; END $$;
CREATE FUNCTION public.labels_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'labels are append-only'; END $$;
CREATE FUNCTION public.labels_refuse_delete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN IF EXISTS (SELECT 1 FROM erasures e JOIN studies s ON s.patient = e.patient WHERE s.id = OLD.study) THEN RETURN OLD; END IF; RAISE EXCEPTION 'labels are append-only'; END $$;
CREATE FUNCTION public.requests_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'requests are append-only'; END $$;
CREATE FUNCTION public.requests_refuse_delete() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN IF EXISTS (SELECT 1 FROM erasures e JOIN studies s ON s.patient = e.patient WHERE s.id = OLD.study) THEN RETURN OLD; END IF; RAISE EXCEPTION 'requests are append-only'; END $$;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.api_tokens (
    id bigint NOT NULL,
    user_name character varying(64) NOT NULL,
    token_sha256 character varying(64) NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE SEQUENCE public.api_tokens_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.api_tokens_id_seq OWNED BY public.api_tokens.id;
CREATE TABLE public.audit_deliveries (
    destination character varying(255) NOT NULL,
    "position" bigint NOT NULL,
    delivered_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.audit_events (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    action character varying(32) NOT NULL,
    outcome character varying(16) NOT NULL,
    subject character varying(128) NOT NULL,
    detail text NOT NULL,
    source character varying(128) NOT NULL,
    patient character varying(32) DEFAULT ''::character varying NOT NULL,
    salt character varying(32) DEFAULT ''::character varying NOT NULL,
    content_sha256 character varying(64) DEFAULT ''::character varying NOT NULL,
    "position" bigint,
    chain_sha256 character varying(64) DEFAULT ''::character varying NOT NULL,
    CONSTRAINT ck_audit_events_outcome CHECK (((outcome)::text = ANY ((ARRAY['done'::character varying, 'refused'::character varying, 'failed'::character varying])::text[])))
);
CREATE SEQUENCE public.audit_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.audit_events_id_seq OWNED BY public.audit_events.id;
CREATE TABLE public.backfill_days (
    backfill bigint NOT NULL,
    day character varying(8) NOT NULL,
    done_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.backfill_units (
    backfill bigint NOT NULL,
    key character varying(64) NOT NULL,
    mark character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    instances integer NOT NULL,
    duplicates integer NOT NULL,
    refused integer NOT NULL,
    bytes bigint NOT NULL,
    error text DEFAULT ''::text NOT NULL,
    finished_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_backfill_units_failed_says_why CHECK ((((state)::text = 'failed'::text) = (error <> ''::text))),
    CONSTRAINT ck_backfill_units_state CHECK (((state)::text = ANY ((ARRAY['done'::character varying, 'failed'::character varying])::text[])))
);
CREATE TABLE public.backfilled_studies (
    study_instance_uid character varying(64) NOT NULL,
    backfill bigint NOT NULL,
    brought_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone
);
CREATE TABLE public.backfills (
    id bigint NOT NULL,
    source character varying(255) NOT NULL,
    begun_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE SEQUENCE public.backfills_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.backfills_id_seq OWNED BY public.backfills.id;
CREATE TABLE public.circuits (
    destination character varying(64) NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    open_until timestamp with time zone
);
CREATE TABLE public.deliveries (
    id bigint NOT NULL,
    report bigint NOT NULL,
    sop_instance_uid character varying(64) NOT NULL,
    sop_class_uid character varying(64) NOT NULL,
    series_instance_uid character varying(64) NOT NULL,
    destination character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    status text DEFAULT ''::text NOT NULL,
    sendings integer DEFAULT 0 NOT NULL,
    transaction_uid character varying(64) DEFAULT ''::character varying NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    sent_at timestamp with time zone,
    committed_at timestamp with time zone,
    verified_at timestamp with time zone,
    checked_at timestamp with time zone,
    CONSTRAINT ck_deliveries_committed_has_a_time CHECK ((((state)::text <> 'committed'::text) OR (committed_at IS NOT NULL))),
    CONSTRAINT ck_deliveries_sent_has_a_time CHECK ((((state)::text <> ALL ((ARRAY['sent'::character varying, 'committed'::character varying, 'verified'::character varying])::text[])) OR (sent_at IS NOT NULL))),
    CONSTRAINT ck_deliveries_state CHECK (((state)::text = ANY ((ARRAY['waiting'::character varying, 'sent'::character varying, 'committed'::character varying, 'verified'::character varying, 'refused'::character varying])::text[]))),
    CONSTRAINT ck_deliveries_verified_has_a_time CHECK ((((state)::text <> 'verified'::text) OR (verified_at IS NOT NULL)))
);
CREATE SEQUENCE public.deliveries_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.deliveries_id_seq OWNED BY public.deliveries.id;
CREATE TABLE public.drafts (
    study bigint NOT NULL,
    reader character varying(64) NOT NULL,
    content json NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.draw_keys (
    purpose character varying(16) NOT NULL,
    key character varying(64) NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.erasures (
    patient bigint NOT NULL,
    begun_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.exports (
    directory character varying(1024) NOT NULL,
    made_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.image_references (
    number integer NOT NULL,
    pixels bytea NOT NULL,
    distance_limit double precision NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_image_references_ck_image_references_number CHECK ((number = 1))
);
CREATE TABLE public.image_scores (
    instance bigint NOT NULL,
    version integer NOT NULL,
    scores bytea NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_image_scores_scores CHECK ((length(scores) = 56))
);
CREATE TABLE public.image_thumbnails (
    instance bigint NOT NULL,
    pixels bytea NOT NULL,
    distance double precision,
    CONSTRAINT ck_image_thumbnails_ck_image_thumbnails_pixels CHECK ((length(pixels) = 196))
);
CREATE TABLE public.instance_conflicts (
    id bigint NOT NULL,
    instance bigint NOT NULL,
    header json NOT NULL,
    file_key character varying(128) NOT NULL,
    file_sha256 character varying(64) NOT NULL,
    file_size bigint NOT NULL,
    file_xxh3 character varying(32) DEFAULT ''::character varying NOT NULL,
    sender_ae_title character varying(64) NOT NULL,
    sender_address character varying(64) NOT NULL,
    called_ae_title character varying(64) NOT NULL,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    resolution character varying(16) DEFAULT ''::character varying NOT NULL,
    resolved_at timestamp with time zone,
    CONSTRAINT ck_instance_conflicts_resolution CHECK (((resolution)::text = ANY ((ARRAY[''::character varying, 'stored'::character varying, 'received'::character varying])::text[]))),
    CONSTRAINT ck_instance_conflicts_resolved_has_a_time CHECK ((((resolution)::text = ''::text) = (resolved_at IS NULL)))
);
CREATE SEQUENCE public.instance_conflicts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.instance_conflicts_id_seq OWNED BY public.instance_conflicts.id;
CREATE TABLE public.instance_revisions (
    id bigint NOT NULL,
    instance bigint NOT NULL,
    transfer_syntax_uid character varying(64) NOT NULL,
    difference text NOT NULL,
    file_key character varying(128) NOT NULL,
    file_sha256 character varying(64) NOT NULL,
    file_size bigint NOT NULL,
    file_xxh3 character varying(32) DEFAULT ''::character varying NOT NULL,
    state character varying(16) DEFAULT 'stored'::character varying NOT NULL,
    replaced_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_instance_revisions_state CHECK (((state)::text = ANY ((ARRAY['stored'::character varying, 'deleting'::character varying, 'deleted'::character varying])::text[])))
);
CREATE SEQUENCE public.instance_revisions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.instance_revisions_id_seq OWNED BY public.instance_revisions.id;
CREATE TABLE public.instances (
    id bigint NOT NULL,
    sop_instance_uid character varying(64) NOT NULL,
    series bigint NOT NULL,
    sop_class_uid character varying(64) NOT NULL,
    transfer_syntax_uid character varying(64) NOT NULL,
    instance_number bigint,
    header json NOT NULL,
    file_key character varying(128) NOT NULL,
    file_sha256 character varying(64) NOT NULL,
    file_size bigint NOT NULL,
    sender_ae_title character varying(64) NOT NULL,
    sender_address character varying(64) NOT NULL,
    called_ae_title character varying(64) NOT NULL,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    file_xxh3 character varying(32) DEFAULT ''::character varying NOT NULL,
    state character varying(16) DEFAULT 'stored'::character varying NOT NULL,
    revision integer DEFAULT 0 NOT NULL,
    pixels_sha256 character varying(64) DEFAULT ''::character varying NOT NULL,
    CONSTRAINT ck_instances_file_size CHECK ((file_size > 0)),
    CONSTRAINT ck_instances_state CHECK (((state)::text = ANY ((ARRAY['stored'::character varying, 'deleting'::character varying, 'deleted'::character varying])::text[])))
);
CREATE SEQUENCE public.instances_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.instances_id_seq OWNED BY public.instances.id;
CREATE TABLE public.jobs (
    id bigint NOT NULL,
    kind character varying(16) NOT NULL,
    subject character varying(64) NOT NULL,
    payload json NOT NULL,
    state character varying(16) DEFAULT 'waiting'::character varying NOT NULL,
    priority integer DEFAULT 100 NOT NULL,
    run_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    worker character varying(128) DEFAULT ''::character varying NOT NULL,
    lease_token character varying(32) DEFAULT ''::character varying NOT NULL,
    lease_until timestamp with time zone,
    error text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT ck_jobs_kind CHECK (((kind)::text = ANY ((ARRAY['score'::character varying, 'report'::character varying, 'send'::character varying, 'label'::character varying, 'learn'::character varying])::text[]))),
    CONSTRAINT ck_jobs_running_is_leased CHECK ((((state)::text = 'running'::text) = (lease_until IS NOT NULL))),
    CONSTRAINT ck_jobs_state CHECK (((state)::text = ANY ((ARRAY['waiting'::character varying, 'running'::character varying, 'done'::character varying, 'quarantined'::character varying])::text[])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02');
CREATE SEQUENCE public.jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.jobs_id_seq OWNED BY public.jobs.id;
CREATE TABLE public.labels (
    id bigint NOT NULL,
    study bigint NOT NULL,
    finding character varying(32) NOT NULL,
    state character varying(16),
    reader character varying(64) NOT NULL,
    source character varying(64) NOT NULL,
    selection_reason character varying(64) DEFAULT ''::character varying NOT NULL,
    selection_probability double precision,
    revokes bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    stated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    document character varying(64) DEFAULT ''::character varying NOT NULL,
    exposure character varying(16) DEFAULT 'none'::character varying NOT NULL,
    CONSTRAINT ck_labels_exposure CHECK (((exposure)::text = ANY ((ARRAY['none'::character varying, 'possible'::character varying, 'seen'::character varying])::text[]))),
    CONSTRAINT ck_labels_finding CHECK (((finding)::text = ANY ((ARRAY['Atelectasis'::character varying, 'Cardiomegaly'::character varying, 'Effusion'::character varying, 'Infiltration'::character varying, 'Mass'::character varying, 'Nodule'::character varying, 'Pneumonia'::character varying, 'Pneumothorax'::character varying, 'Consolidation'::character varying, 'Edema'::character varying, 'Emphysema'::character varying, 'Fibrosis'::character varying, 'Pleural_Thickening'::character varying, 'Hernia'::character varying])::text[]))),
    CONSTRAINT ck_labels_says_something CHECK (((state IS NOT NULL) OR (revokes IS NOT NULL))),
    CONSTRAINT ck_labels_selection_probability CHECK (((selection_probability > (0)::double precision) AND (selection_probability <= (1)::double precision))),
    CONSTRAINT ck_labels_state CHECK (((state)::text = ANY ((ARRAY['present'::character varying, 'absent'::character varying, 'uncertain'::character varying])::text[])))
);
CREATE SEQUENCE public.labels_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.labels_id_seq OWNED BY public.labels.id;
CREATE TABLE public.model_versions (
    number integer NOT NULL,
    state character varying(16) NOT NULL,
    name character varying(128) NOT NULL,
    base character varying(128) NOT NULL,
    weights_sha256 character varying(64) NOT NULL,
    device_uid character varying(64) NOT NULL,
    notice character varying(64) DEFAULT ''::character varying NOT NULL,
    calibrated boolean DEFAULT false NOT NULL,
    label_fingerprint character varying(64) DEFAULT ''::character varying NOT NULL,
    thresholds json NOT NULL,
    undetermined_margin double precision NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    card json NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    served_at timestamp with time zone,
    retired_at timestamp with time zone,
    scales json DEFAULT '{}'::json NOT NULL,
    CONSTRAINT ck_model_versions_rejected_says_why CHECK ((((state)::text <> 'rejected'::text) OR (reason <> ''::text))),
    CONSTRAINT ck_model_versions_state CHECK (((state)::text = ANY ((ARRAY['candidate'::character varying, 'serving'::character varying, 'retired'::character varying, 'rejected'::character varying])::text[])))
);
CREATE TABLE public.patients (
    id bigint NOT NULL,
    patient_key character varying(300) NOT NULL,
    patient_id character varying(128) NOT NULL,
    issuer_of_patient_id character varying(128) NOT NULL,
    patient_sex character varying(16) NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE SEQUENCE public.patients_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.patients_id_seq OWNED BY public.patients.id;
CREATE TABLE public.predictions (
    study bigint NOT NULL,
    version integer NOT NULL,
    finding character varying(32) NOT NULL,
    score double precision NOT NULL,
    decision character varying(16) NOT NULL,
    revision integer NOT NULL,
    predicted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    scale character varying(16) NOT NULL,
    likelihood double precision,
    percentile double precision,
    excess double precision,
    reference integer,
    reason character varying(16) DEFAULT ''::character varying NOT NULL,
    CONSTRAINT ck_predictions_assessed_has_a_likelihood CHECK ((((decision)::text = 'not assessed'::text) = (likelihood IS NULL))),
    CONSTRAINT ck_predictions_decision CHECK (((decision)::text = ANY ((ARRAY['present'::character varying, 'absent'::character varying, 'undetermined'::character varying, 'not assessed'::character varying])::text[]))),
    CONSTRAINT ck_predictions_finding CHECK (((finding)::text = ANY ((ARRAY['Atelectasis'::character varying, 'Cardiomegaly'::character varying, 'Effusion'::character varying, 'Infiltration'::character varying, 'Mass'::character varying, 'Nodule'::character varying, 'Pneumonia'::character varying, 'Pneumothorax'::character varying, 'Consolidation'::character varying, 'Edema'::character varying, 'Emphysema'::character varying, 'Fibrosis'::character varying, 'Pleural_Thickening'::character varying, 'Hernia'::character varying])::text[]))),
    CONSTRAINT ck_predictions_likelihood CHECK (((likelihood >= (0)::double precision) AND (likelihood <= (1)::double precision))),
    CONSTRAINT ck_predictions_not_assessed_says_why CHECK ((((decision)::text = 'not assessed'::text) = ((reason)::text <> ''::text))),
    CONSTRAINT ck_predictions_percentile CHECK (((percentile >= (0)::double precision) AND (percentile <= (1)::double precision))),
    CONSTRAINT ck_predictions_reason CHECK (((reason)::text = ANY ((ARRAY[''::character varying, 'no reference'::character varying, 'stopped'::character varying, 'age'::character varying, 'age unknown'::character varying, 'withdrawn'::character varying])::text[]))),
    CONSTRAINT ck_predictions_scale CHECK (((scale)::text = ANY ((ARRAY['probability'::character varying, 'band'::character varying, 'rank'::character varying])::text[]))),
    CONSTRAINT ck_predictions_score CHECK (((score >= (0)::double precision) AND (score <= (1)::double precision)))
);
CREATE TABLE public.pseudonym_keys (
    patient bigint NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT ck_pseudonym_keys_key CHECK ((length(key) = 32))
);
CREATE TABLE public.reader_documents (
    id bigint NOT NULL,
    reading bigint NOT NULL,
    sop_instance_uid character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    file_key character varying(128),
    file_sha256 character varying(64),
    file_size bigint,
    status text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    built_at timestamp with time zone,
    sent_at timestamp with time zone,
    CONSTRAINT ck_reader_documents_built_has_bytes CHECK ((((state)::text = ANY ((ARRAY['pending'::character varying, 'refused'::character varying])::text[])) OR (file_sha256 IS NOT NULL))),
    CONSTRAINT ck_reader_documents_state CHECK (((state)::text = ANY ((ARRAY['pending'::character varying, 'built'::character varying, 'sent'::character varying, 'refused'::character varying])::text[])))
);
CREATE SEQUENCE public.reader_documents_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.reader_documents_id_seq OWNED BY public.reader_documents.id;
CREATE TABLE public.readings (
    id bigint NOT NULL,
    study bigint NOT NULL,
    reader character varying(64) NOT NULL,
    idempotency_key character varying(64) NOT NULL,
    skip_reason character varying(64) DEFAULT ''::character varying NOT NULL,
    states json NOT NULL,
    points json NOT NULL,
    comment text DEFAULT ''::text NOT NULL,
    exposure character varying(16) NOT NULL,
    read_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    is_repeat boolean DEFAULT false NOT NULL,
    CONSTRAINT ck_readings_exposure CHECK (((exposure)::text = ANY ((ARRAY['none'::character varying, 'possible'::character varying, 'seen'::character varying])::text[])))
);
CREATE SEQUENCE public.readings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.readings_id_seq OWNED BY public.readings.id;
CREATE TABLE public.reference_distributions (
    number integer NOT NULL,
    version integer NOT NULL,
    studies integer NOT NULL,
    priors json NOT NULL,
    call_rates json NOT NULL,
    separation double precision NOT NULL,
    made_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_reference_distributions_studies CHECK ((studies > 0))
);
CREATE TABLE public.reference_scores (
    reference integer NOT NULL,
    view character varying(8) NOT NULL,
    scores bytea NOT NULL
);
CREATE TABLE public.report_stops (
    id bigint NOT NULL,
    finding character varying(32) NOT NULL,
    reason text NOT NULL,
    source character varying(128) DEFAULT ''::character varying NOT NULL,
    stopped_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    resumed_at timestamp with time zone,
    CONSTRAINT ck_report_stops_finding CHECK (((finding)::text = ANY ((ARRAY[''::character varying, 'Atelectasis'::character varying, 'Cardiomegaly'::character varying, 'Effusion'::character varying, 'Infiltration'::character varying, 'Mass'::character varying, 'Nodule'::character varying, 'Pneumonia'::character varying, 'Pneumothorax'::character varying, 'Consolidation'::character varying, 'Edema'::character varying, 'Emphysema'::character varying, 'Fibrosis'::character varying, 'Pleural_Thickening'::character varying, 'Hernia'::character varying])::text[]))),
    CONSTRAINT ck_report_stops_says_why CHECK ((reason <> ''::text))
);
CREATE SEQUENCE public.report_stops_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.report_stops_id_seq OWNED BY public.report_stops.id;
CREATE TABLE public.reports (
    id bigint NOT NULL,
    sop_instance_uid character varying(64) NOT NULL,
    series_instance_uid character varying(64) NOT NULL,
    study bigint NOT NULL,
    version integer NOT NULL,
    revision integer NOT NULL,
    sop_class_uid character varying(64) DEFAULT ''::character varying NOT NULL,
    state character varying(16) NOT NULL,
    predecessor character varying(64),
    file_key character varying(128),
    file_sha256 character varying(64),
    file_size bigint,
    status text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    built_at timestamp with time zone,
    sent_at timestamp with time zone,
    withdrawal text DEFAULT ''::text NOT NULL,
    withheld character varying(16) DEFAULT ''::character varying NOT NULL,
    CONSTRAINT ck_reports_built_has_bytes CHECK ((((state)::text = ANY ((ARRAY['pending'::character varying, 'refused'::character varying])::text[])) OR (file_sha256 IS NOT NULL))),
    CONSTRAINT ck_reports_sent_has_a_time CHECK ((((state)::text <> 'sent'::text) OR (sent_at IS NOT NULL))),
    CONSTRAINT ck_reports_state CHECK (((state)::text = ANY ((ARRAY['pending'::character varying, 'built'::character varying, 'sent'::character varying, 'refused'::character varying])::text[]))),
    CONSTRAINT ck_reports_withheld CHECK (((withheld)::text = ANY ((ARRAY[''::character varying, 'shadow'::character varying, 'silent share'::character varying])::text[]))),
    CONSTRAINT ck_reports_withheld_is_not_sent CHECK ((((withheld)::text = ''::text) OR ((state)::text <> 'sent'::text)))
)
WITH (autovacuum_vacuum_scale_factor='0.05');
CREATE SEQUENCE public.reports_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.reports_id_seq OWNED BY public.reports.id;
CREATE TABLE public.requests (
    id bigint NOT NULL,
    study bigint NOT NULL,
    selection_reason character varying(64) NOT NULL,
    finding character varying(32) DEFAULT ''::character varying NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    selection_probability double precision NOT NULL,
    version integer NOT NULL,
    requested_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_requests_finding CHECK (((finding)::text = ANY ((ARRAY[''::character varying, 'Atelectasis'::character varying, 'Cardiomegaly'::character varying, 'Effusion'::character varying, 'Infiltration'::character varying, 'Mass'::character varying, 'Nodule'::character varying, 'Pneumonia'::character varying, 'Pneumothorax'::character varying, 'Consolidation'::character varying, 'Edema'::character varying, 'Emphysema'::character varying, 'Fibrosis'::character varying, 'Pleural_Thickening'::character varying, 'Hernia'::character varying])::text[]))),
    CONSTRAINT ck_requests_says_why CHECK (((selection_reason)::text <> ''::text)),
    CONSTRAINT ck_requests_selection_probability CHECK (((selection_probability > (0)::double precision) AND (selection_probability <= (1)::double precision)))
);
CREATE SEQUENCE public.requests_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.requests_id_seq OWNED BY public.requests.id;
CREATE TABLE public.reveals (
    study bigint NOT NULL,
    reader character varying(64) NOT NULL,
    revealed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.second_readings (
    id bigint NOT NULL,
    study bigint NOT NULL,
    finding character varying(32) NOT NULL,
    reason text NOT NULL,
    version integer NOT NULL,
    requested_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_second_readings_ck_second_readings_finding CHECK (((finding)::text = ANY ((ARRAY['Atelectasis'::character varying, 'Cardiomegaly'::character varying, 'Effusion'::character varying, 'Infiltration'::character varying, 'Mass'::character varying, 'Nodule'::character varying, 'Pneumonia'::character varying, 'Pneumothorax'::character varying, 'Consolidation'::character varying, 'Edema'::character varying, 'Emphysema'::character varying, 'Fibrosis'::character varying, 'Pleural_Thickening'::character varying, 'Hernia'::character varying])::text[])))
);
CREATE SEQUENCE public.second_readings_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.second_readings_id_seq OWNED BY public.second_readings.id;
CREATE TABLE public.series (
    id bigint NOT NULL,
    series_instance_uid character varying(64) NOT NULL,
    study bigint NOT NULL,
    modality character varying(16) NOT NULL,
    series_number bigint,
    series_description character varying(128) NOT NULL
);
CREATE SEQUENCE public.series_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.series_id_seq OWNED BY public.series.id;
CREATE TABLE public.studies (
    id bigint NOT NULL,
    study_instance_uid character varying(64) NOT NULL,
    patient bigint NOT NULL,
    accession_number character varying(64) NOT NULL,
    study_date character varying(8) NOT NULL,
    study_time character varying(16) NOT NULL,
    study_description character varying(128) NOT NULL,
    patient_age character varying(4) NOT NULL,
    state character varying(16) NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    revision integer DEFAULT 0 NOT NULL,
    instance_count integer DEFAULT 0 NOT NULL,
    released boolean DEFAULT false NOT NULL,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    silent boolean,
    files_deleted_at timestamp with time zone,
    CONSTRAINT ck_studies_ignored_says_why CHECK ((((state)::text <> 'ignored'::text) OR (reason <> ''::text))),
    CONSTRAINT ck_studies_revision CHECK ((revision >= 0)),
    CONSTRAINT ck_studies_state CHECK (((state)::text = ANY ((ARRAY['arriving'::character varying, 'settled'::character varying, 'scored'::character varying, 'reported'::character varying, 'ignored'::character varying])::text[])))
)
WITH (fillfactor='90', autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02');
CREATE SEQUENCE public.studies_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_id_seq OWNED BY public.studies.id;
CREATE TABLE public.users (
    id bigint NOT NULL,
    name character varying(64) NOT NULL,
    role character varying(16) NOT NULL,
    password_hash character varying(256) NOT NULL,
    session_key character varying(64) NOT NULL,
    disabled boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT ck_users_role CHECK (((role)::text = ANY ((ARRAY['viewer'::character varying, 'reader'::character varying, 'operator'::character varying, 'administrator'::character varying])::text[])))
);
CREATE SEQUENCE public.users_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.users_id_seq OWNED BY public.users.id;
CREATE VIEW public.v_audit AS
 SELECT audit_events.id,
    audit_events.at,
    audit_events.action,
    audit_events.outcome,
    audit_events.subject,
    audit_events.detail,
    audit_events.source,
    audit_events.patient AS patient_pseudonym,
    audit_events."position",
    audit_events.chain_sha256
   FROM public.audit_events;
CREATE VIEW public.v_backfills AS
 SELECT b.source,
    b.begun_at,
    ( SELECT count(*) AS count
           FROM public.backfill_days d
          WHERE (d.backfill = b.id)) AS days_done,
    count(
        CASE
            WHEN ((p.state)::text = 'done'::text) THEN 1
            ELSE NULL::integer
        END) AS units_done,
    count(
        CASE
            WHEN ((p.state)::text = 'failed'::text) THEN 1
            ELSE NULL::integer
        END) AS units_failed,
    COALESCE(sum(p.instances), (0)::bigint) AS instances,
    COALESCE(sum(p.refused), (0)::bigint) AS refused,
    (COALESCE(sum(p.bytes), (0)::numeric))::bigint AS bytes,
    max(p.finished_at) AS last_at,
    ( SELECT e.error
           FROM public.backfill_units e
          WHERE ((e.backfill = b.id) AND ((e.state)::text = 'failed'::text))
          ORDER BY e.finished_at DESC
         LIMIT 1) AS last_error
   FROM (public.backfills b
     LEFT JOIN public.backfill_units p ON ((p.backfill = b.id)))
  GROUP BY b.id, b.source, b.begun_at;
CREATE VIEW public.v_conflicts AS
 SELECT c.id AS conflict,
    i.sop_instance_uid,
    s.study_instance_uid,
    i.file_key AS stored_file_key,
    c.file_key,
    c.file_sha256,
    c.file_size,
    c.sender_ae_title,
    c.sender_address,
    c.received_at,
    c.resolution,
    c.resolved_at
   FROM (((public.instance_conflicts c
     JOIN public.instances i ON ((i.id = c.instance)))
     JOIN public.series r ON ((r.id = i.series)))
     JOIN public.studies s ON ((s.id = r.study)));
CREATE VIEW public.v_deliveries AS
 SELECT d.sop_instance_uid,
    d.sop_class_uid,
    d.destination,
    s.study_instance_uid,
    s.accession_number,
    r.sop_instance_uid AS report_sop_instance_uid,
    d.state,
    d.status,
    d.sendings,
    d.created_at,
    d.sent_at,
    d.committed_at,
    d.verified_at,
    d.checked_at
   FROM ((public.deliveries d
     JOIN public.reports r ON ((r.id = d.report)))
     JOIN public.studies s ON ((s.id = r.study)));
CREATE VIEW public.v_findings_wide AS
 SELECT s.study_instance_uid,
    s.accession_number,
    s.study_date,
    m.number AS version,
    m.notice,
    p.excess AS atelectasis,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Cardiomegaly'::text))) AS cardiomegaly,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Effusion'::text))) AS effusion,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Infiltration'::text))) AS infiltration,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Mass'::text))) AS mass,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Nodule'::text))) AS nodule,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Pneumonia'::text))) AS pneumonia,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Pneumothorax'::text))) AS pneumothorax,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Consolidation'::text))) AS consolidation,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Edema'::text))) AS edema,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Emphysema'::text))) AS emphysema,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Fibrosis'::text))) AS fibrosis,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Pleural_Thickening'::text))) AS pleural_thickening,
    ( SELECT q.excess
           FROM public.predictions q
          WHERE ((q.study = p.study) AND (q.version = p.version) AND ((q.finding)::text = 'Hernia'::text))) AS hernia
   FROM ((public.studies s
     CROSS JOIN public.predictions p)
     CROSS JOIN public.model_versions m)
  WHERE ((p.study = s.id) AND (p.revision = s.revision) AND ((p.finding)::text = 'Atelectasis'::text) AND (m.number = p.version));
CREATE VIEW public.v_instance_revisions AS
 SELECT v.id AS number,
    i.sop_instance_uid,
    v.transfer_syntax_uid,
    v.difference,
    v.file_key,
    v.file_sha256,
    v.file_size,
    v.state,
    v.replaced_at
   FROM (public.instance_revisions v
     JOIN public.instances i ON ((i.id = v.instance)));
CREATE VIEW public.v_instances AS
 SELECT i.sop_instance_uid,
    r.series_instance_uid,
    s.study_instance_uid,
    i.sop_class_uid,
    i.transfer_syntax_uid,
    r.modality,
    r.series_number,
    i.instance_number,
    (i.header ->> 'view_position'::text) AS view_position,
    (i.header ->> 'body_part_examined'::text) AS body_part_examined,
    (i.header ->> 'manufacturer_model_name'::text) AS manufacturer_model_name,
    i.file_key,
    i.file_sha256,
    i.file_size,
    i.sender_ae_title,
    i.sender_address,
    i.received_at,
    n.distance,
        CASE
            WHEN (n.distance > (1)::double precision) THEN 1
            WHEN (n.distance IS NOT NULL) THEN 0
            ELSE NULL::integer
        END AS unusable,
    i.state,
    i.revision
   FROM (((public.instances i
     JOIN public.series r ON ((r.id = i.series)))
     JOIN public.studies s ON ((s.id = r.study)))
     LEFT JOIN public.image_thumbnails n ON ((n.instance = i.id)));
CREATE VIEW public.v_jobs AS
 SELECT jobs.id,
    jobs.kind,
    jobs.subject,
    jobs.state,
    jobs.priority,
    jobs.run_at,
    jobs.attempts,
    jobs.worker,
    jobs.lease_until,
    jobs.error,
    jobs.created_at,
    jobs.finished_at
   FROM public.jobs;
CREATE VIEW public.v_labels AS
 SELECT l.id,
    s.study_instance_uid,
    s.accession_number,
    l.finding,
    l.state,
    l.reader,
    l.source,
    l.selection_reason,
    l.selection_probability,
    l.created_at,
        CASE
            WHEN ((( SELECT x.id
               FROM public.labels x
              WHERE (x.revokes = l.id)) IS NOT NULL) OR (EXISTS ( SELECT 1
               FROM public.labels x
              WHERE ((x.study = l.study) AND ((x.finding)::text = (l.finding)::text) AND ((x.reader)::text = (l.reader)::text) AND (x.state IS NOT NULL) AND ((x.stated_at > l.stated_at) OR ((x.stated_at = l.stated_at) AND (x.id > l.id))))))) THEN 1
            ELSE 0
        END AS revoked,
    l.stated_at,
    l.document,
    l.exposure
   FROM (public.labels l
     JOIN public.studies s ON ((s.id = l.study)))
  WHERE (l.state IS NOT NULL);
CREATE VIEW public.v_learning AS
 SELECT j.id AS job,
    j.state,
    j.created_at,
    j.attempts,
    j.worker,
    j.stage,
    j.done,
    j.total,
    ((j.seconds / (NULLIF(j.done, 0))::double precision) * ((j.total - j.done))::double precision) AS seconds_left,
    j.result,
    j.reason,
    j.version,
    j.error,
    j.finished_at
   FROM ( SELECT jobs.id,
            jobs.state,
            jobs.created_at,
            jobs.attempts,
            jobs.worker,
            jobs.error,
            jobs.finished_at,
                CASE
                    WHEN (((jobs.state)::text = 'running'::text) AND ((jobs.payload ->> 'lease'::text) = (jobs.lease_token)::text)) THEN (jobs.payload ->> 'stage'::text)
                    ELSE NULL::text
                END AS stage,
                CASE
                    WHEN (((jobs.state)::text = 'running'::text) AND ((jobs.payload ->> 'lease'::text) = (jobs.lease_token)::text)) THEN ((jobs.payload ->> 'done'::text))::integer
                    ELSE NULL::integer
                END AS done,
                CASE
                    WHEN (((jobs.state)::text = 'running'::text) AND ((jobs.payload ->> 'lease'::text) = (jobs.lease_token)::text)) THEN ((jobs.payload ->> 'total'::text))::integer
                    ELSE NULL::integer
                END AS total,
                CASE
                    WHEN (((jobs.state)::text = 'running'::text) AND ((jobs.payload ->> 'lease'::text) = (jobs.lease_token)::text)) THEN ((jobs.payload ->> 'seconds'::text))::double precision
                    ELSE NULL::double precision
                END AS seconds,
            (jobs.payload ->> 'result'::text) AS result,
            (jobs.payload ->> 'reason'::text) AS reason,
            ((jobs.payload ->> 'version'::text))::integer AS version
           FROM public.jobs
          WHERE ((jobs.kind)::text = 'learn'::text)) j;
CREATE VIEW public.v_lineage AS
 SELECT r.sop_instance_uid,
    s.study_instance_uid,
    r.revision,
    r.state AS delivery,
    r.status,
    r.created_at,
    r.built_at,
    r.sent_at,
    r.file_sha256 AS report_sha256,
    r.predecessor,
    i.sop_instance_uid AS image_sop_instance_uid,
    i.file_key AS image_file_key,
    i.file_sha256 AS image_sha256,
    r.version,
    m.name AS version_name,
    m.device_uid,
    m.notice,
    m.weights_sha256,
    ((m.card -> 'preprocess'::text) ->> 'fingerprint'::text) AS preprocessing,
    ((m.card -> 'prompts'::text) ->> 'fingerprint'::text) AS prompts,
    m.label_fingerprint,
    (m.card ->> 'calibration'::text) AS calibration,
    f.column1 AS finding,
    p.decision,
    p.scale,
        CASE
            WHEN ((p.scale)::text = 'probability'::text) THEN p.likelihood
            ELSE NULL::double precision
        END AS probability,
        CASE
            WHEN (p.likelihood < (0.02)::double precision) THEN 'very unlikely'::text
            WHEN (p.likelihood < (0.1)::double precision) THEN 'unlikely'::text
            WHEN (p.likelihood < (0.5)::double precision) THEN 'possible'::text
            WHEN (p.likelihood < (0.9)::double precision) THEN 'likely'::text
            WHEN (p.likelihood IS NOT NULL) THEN 'very likely'::text
            ELSE NULL::text
        END AS band,
    p.percentile,
        CASE
            WHEN ((p.scale)::text = 'rank'::text) THEN ((d.priors ->> (p.finding)::text))::double precision
            ELSE (((((m.card -> 'learning'::text) -> 'measures'::text) -> (p.finding)::text) ->> 'prevalence'::text))::double precision
        END AS prevalence,
        CASE
            WHEN ((p.decision)::text = 'not assessed'::text) THEN NULL::double precision
            WHEN ((p.scale)::text = 'rank'::text) THEN ((1)::double precision - ((d.call_rates ->> (p.finding)::text))::double precision)
            ELSE ((m.thresholds ->> (p.finding)::text))::double precision
        END AS operating_point,
    p.excess,
    p.reason,
    p.reference,
    p.score,
    m.undetermined_margin
   FROM ((((((((public.reports r
     JOIN public.studies s ON ((s.id = r.study)))
     JOIN public.model_versions m ON ((m.number = r.version)))
     JOIN public.series e ON ((e.study = s.id)))
     JOIN public.instances i ON ((i.series = e.id)))
     JOIN public.image_scores g ON (((g.instance = i.id) AND (g.version = r.version) AND (g.created_at <= r.created_at))))
     CROSS JOIN ( VALUES ('Atelectasis'::text), ('Cardiomegaly'::text), ('Effusion'::text), ('Infiltration'::text), ('Mass'::text), ('Nodule'::text), ('Pneumonia'::text), ('Pneumothorax'::text), ('Consolidation'::text), ('Edema'::text), ('Emphysema'::text), ('Fibrosis'::text), ('Pleural_Thickening'::text), ('Hernia'::text)) f)
     LEFT JOIN public.predictions p ON (((p.study = r.study) AND (p.version = r.version) AND (p.revision = r.revision) AND ((p.finding)::text = f.column1))))
     LEFT JOIN public.reference_distributions d ON ((d.number = p.reference)));
CREATE VIEW public.v_model_versions AS
 SELECT model_versions.number,
    model_versions.state,
    model_versions.name,
    model_versions.base,
    model_versions.weights_sha256,
    model_versions.device_uid,
    model_versions.notice,
    model_versions.calibrated,
    model_versions.label_fingerprint,
    model_versions.scales,
    model_versions.thresholds,
    model_versions.undetermined_margin,
    model_versions.reason,
    model_versions.card,
    model_versions.created_at,
    model_versions.served_at,
    model_versions.retired_at,
    ( SELECT max(d.number) AS max
           FROM public.reference_distributions d
          WHERE (d.version = d.number)) AS reference
   FROM public.model_versions;
CREATE VIEW public.v_predictions AS
 SELECT s.study_instance_uid,
    s.accession_number,
    p.finding,
    p.decision,
    p.scale,
        CASE
            WHEN ((p.scale)::text = 'probability'::text) THEN p.likelihood
            ELSE NULL::double precision
        END AS probability,
        CASE
            WHEN (p.likelihood < (0.02)::double precision) THEN 'very unlikely'::text
            WHEN (p.likelihood < (0.1)::double precision) THEN 'unlikely'::text
            WHEN (p.likelihood < (0.5)::double precision) THEN 'possible'::text
            WHEN (p.likelihood < (0.9)::double precision) THEN 'likely'::text
            WHEN (p.likelihood IS NOT NULL) THEN 'very likely'::text
            ELSE NULL::text
        END AS band,
    p.percentile,
        CASE
            WHEN ((p.scale)::text = 'rank'::text) THEN ((d.priors ->> (p.finding)::text))::double precision
            ELSE (((((m.card -> 'learning'::text) -> 'measures'::text) -> (p.finding)::text) ->> 'prevalence'::text))::double precision
        END AS prevalence,
        CASE
            WHEN ((p.decision)::text = 'not assessed'::text) THEN NULL::double precision
            WHEN ((p.scale)::text = 'rank'::text) THEN ((1)::double precision - ((d.call_rates ->> (p.finding)::text))::double precision)
            ELSE ((m.thresholds ->> (p.finding)::text))::double precision
        END AS operating_point,
    p.excess,
    p.reason,
    p.reference,
    p.score,
    p.version,
    m.name AS version_name,
    m.notice,
    p.revision,
    p.predicted_at
   FROM (((public.predictions p
     JOIN public.studies s ON (((s.id = p.study) AND (s.revision = p.revision))))
     JOIN public.model_versions m ON ((m.number = p.version)))
     LEFT JOIN public.reference_distributions d ON ((d.number = p.reference)));
CREATE VIEW public.v_readings AS
 SELECT r.id,
    s.study_instance_uid,
    s.accession_number,
    r.reader,
    r.skip_reason,
    r.states,
    r.points,
    r.comment,
    r.exposure,
    r.read_at,
        CASE
            WHEN r.is_repeat THEN 1
            ELSE 0
        END AS repeated,
    d.sop_instance_uid AS document,
    d.state AS document_state,
    d.sent_at
   FROM ((public.readings r
     JOIN public.studies s ON ((s.id = r.study)))
     LEFT JOIN public.reader_documents d ON ((d.reading = r.id)));
CREATE VIEW public.v_references AS
 SELECT reference_distributions.number,
    reference_distributions.version,
    reference_distributions.studies,
    reference_distributions.priors,
    reference_distributions.call_rates,
    reference_distributions.separation,
    reference_distributions.made_at
   FROM public.reference_distributions;
CREATE VIEW public.v_report_stops AS
 SELECT report_stops.finding,
    report_stops.reason,
    report_stops.source,
    report_stops.stopped_at,
    report_stops.resumed_at
   FROM public.report_stops;
CREATE VIEW public.v_reports AS
 SELECT r.sop_instance_uid,
    r.series_instance_uid,
    r.sop_class_uid,
    s.study_instance_uid,
    s.accession_number,
    r.version,
    r.revision,
    r.state,
    r.predecessor,
    r.file_key,
    r.file_sha256,
    r.status,
    r.created_at,
    r.built_at,
    r.sent_at,
    r.withdrawal,
    r.withheld
   FROM (public.reports r
     JOIN public.studies s ON ((s.id = r.study)));
CREATE VIEW public.v_rescoring AS
 SELECT m.number AS version,
    m.name AS version_name,
    m.served_at,
    (t.studies - o.studies) AS studies,
    (COALESCE(a.scored, (0)::bigint) - o.scored) AS scored,
    (COALESCE(a.scored_since, (0)::bigint) - o.scored_since) AS scored_since,
    a.last_scored_at
   FROM (((public.model_versions m
     CROSS JOIN ( SELECT count(*) AS studies
           FROM public.studies) t)
     CROSS JOIN ( SELECT count(*) AS studies,
            count(p.study) AS scored,
            count(
                CASE
                    WHEN (p.predicted_at >= n.served_at) THEN 1
                    ELSE NULL::integer
                END) AS scored_since
           FROM ((public.studies s
             LEFT JOIN public.model_versions n ON (((n.state)::text = 'serving'::text)))
             LEFT JOIN public.predictions p ON (((p.study = s.id) AND (p.version = n.number) AND ((p.finding)::text = 'Atelectasis'::text))))
          WHERE (((s.state)::text <> 'reported'::text) AND (((s.state)::text <> 'scored'::text) OR ((COALESCE(( SELECT
                        CASE
                            WHEN ((r.withheld)::text = ''::text) THEN r.state
                            ELSE 'refused'::character varying
                        END AS "case"
                   FROM public.reports r
                  WHERE (r.study = s.id)
                  ORDER BY r.id DESC
                 LIMIT 1), (( SELECT 'refused'::text
                   FROM public.backfilled_studies k
                  WHERE ((k.study_instance_uid)::text = (s.study_instance_uid)::text)))::character varying, ''::character varying))::text <> 'refused'::text)))) o)
     LEFT JOIN ( SELECT p.version,
            count(*) AS scored,
            count(
                CASE
                    WHEN (p.predicted_at >= n.served_at) THEN 1
                    ELSE NULL::integer
                END) AS scored_since,
            max(p.predicted_at) AS last_scored_at
           FROM (public.model_versions n
             JOIN public.predictions p ON ((p.version = n.number)))
          WHERE (((n.state)::text = 'serving'::text) AND ((p.finding)::text = 'Atelectasis'::text))
          GROUP BY p.version) a ON ((a.version = m.number)))
  WHERE (((m.state)::text = 'serving'::text) AND (t.studies > o.studies));
CREATE VIEW public.v_second_readings AS
 SELECT s.study_instance_uid,
    s.accession_number,
    q.finding,
    q.reason,
    q.version,
    q.requested_at,
    ( SELECT min(l.created_at) AS min
           FROM public.labels l
          WHERE ((l.study = q.study) AND (l.state IS NOT NULL) AND (l.created_at > q.requested_at))) AS labelled_at
   FROM (public.second_readings q
     JOIN public.studies s ON ((s.id = q.study)));
CREATE VIEW public.v_studies AS
 SELECT s.study_instance_uid,
    s.accession_number,
    t.patient_id,
    t.issuer_of_patient_id,
    t.patient_sex,
    s.patient_age,
    s.study_date,
    s.study_time,
    s.study_description,
    s.state,
    s.reason,
    s.revision,
    s.instance_count,
    s.received_at,
    s.last_received_at,
    s.files_deleted_at,
        CASE
            WHEN s.silent THEN 1
            WHEN (s.silent IS NOT NULL) THEN 0
            ELSE NULL::integer
        END AS silent
   FROM (public.studies s
     JOIN public.patients t ON ((t.id = s.patient)));
CREATE VIEW public.v_users AS
 SELECT users.name,
    users.role,
    users.disabled,
    users.created_at
   FROM public.users;
CREATE TABLE public.visible_objects (
    id bigint NOT NULL,
    sop_instance_uid character varying(64) NOT NULL,
    series_instance_uid character varying(64) NOT NULL,
    report bigint NOT NULL,
    kind character varying(16) NOT NULL,
    sop_class_uid character varying(64) DEFAULT ''::character varying NOT NULL,
    state character varying(16) NOT NULL,
    predecessor character varying(64),
    file_key character varying(128),
    file_sha256 character varying(64),
    file_size bigint,
    status text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    built_at timestamp with time zone,
    sent_at timestamp with time zone,
    CONSTRAINT ck_visible_objects_built_has_bytes CHECK ((((state)::text = ANY ((ARRAY['pending'::character varying, 'refused'::character varying])::text[])) OR (file_sha256 IS NOT NULL))),
    CONSTRAINT ck_visible_objects_kind CHECK (((kind)::text = ANY ((ARRAY['text'::character varying, 'card'::character varying])::text[]))),
    CONSTRAINT ck_visible_objects_sent_has_a_time CHECK ((((state)::text <> 'sent'::text) OR (sent_at IS NOT NULL))),
    CONSTRAINT ck_visible_objects_state CHECK (((state)::text = ANY ((ARRAY['pending'::character varying, 'built'::character varying, 'sent'::character varying, 'refused'::character varying])::text[])))
);
CREATE VIEW public.v_visible_objects AS
 SELECT v.sop_instance_uid,
    v.series_instance_uid,
    v.sop_class_uid,
    s.study_instance_uid,
    s.accession_number,
    v.kind,
    r.sop_instance_uid AS report_sop_instance_uid,
    r.version,
    r.revision,
    v.state,
    v.predecessor,
    v.file_key,
    v.file_sha256,
    v.status,
    v.created_at,
    v.built_at,
    v.sent_at
   FROM ((public.visible_objects v
     JOIN public.reports r ON ((r.id = v.report)))
     JOIN public.studies s ON ((s.id = r.study)));
CREATE VIEW public.v_worklist AS
 SELECT s.study_instance_uid,
    s.accession_number,
    s.study_date,
    q.selection_reason,
    q.finding,
    q.reason,
    q.selection_probability,
    q.version,
    q.requested_at,
    ( SELECT min(l.created_at) AS min
           FROM public.labels l
          WHERE ((l.study = q.study) AND (l.state IS NOT NULL))) AS labelled_at
   FROM (public.requests q
     JOIN public.studies s ON ((s.id = q.study)));
CREATE SEQUENCE public.visible_objects_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.visible_objects_id_seq OWNED BY public.visible_objects.id;
ALTER TABLE ONLY public.api_tokens ALTER COLUMN id SET DEFAULT nextval('public.api_tokens_id_seq'::regclass);
ALTER TABLE ONLY public.audit_events ALTER COLUMN id SET DEFAULT nextval('public.audit_events_id_seq'::regclass);
ALTER TABLE ONLY public.backfills ALTER COLUMN id SET DEFAULT nextval('public.backfills_id_seq'::regclass);
ALTER TABLE ONLY public.deliveries ALTER COLUMN id SET DEFAULT nextval('public.deliveries_id_seq'::regclass);
ALTER TABLE ONLY public.instance_conflicts ALTER COLUMN id SET DEFAULT nextval('public.instance_conflicts_id_seq'::regclass);
ALTER TABLE ONLY public.instance_revisions ALTER COLUMN id SET DEFAULT nextval('public.instance_revisions_id_seq'::regclass);
ALTER TABLE ONLY public.instances ALTER COLUMN id SET DEFAULT nextval('public.instances_id_seq'::regclass);
ALTER TABLE ONLY public.jobs ALTER COLUMN id SET DEFAULT nextval('public.jobs_id_seq'::regclass);
ALTER TABLE ONLY public.labels ALTER COLUMN id SET DEFAULT nextval('public.labels_id_seq'::regclass);
ALTER TABLE ONLY public.patients ALTER COLUMN id SET DEFAULT nextval('public.patients_id_seq'::regclass);
ALTER TABLE ONLY public.reader_documents ALTER COLUMN id SET DEFAULT nextval('public.reader_documents_id_seq'::regclass);
ALTER TABLE ONLY public.readings ALTER COLUMN id SET DEFAULT nextval('public.readings_id_seq'::regclass);
ALTER TABLE ONLY public.report_stops ALTER COLUMN id SET DEFAULT nextval('public.report_stops_id_seq'::regclass);
ALTER TABLE ONLY public.reports ALTER COLUMN id SET DEFAULT nextval('public.reports_id_seq'::regclass);
ALTER TABLE ONLY public.requests ALTER COLUMN id SET DEFAULT nextval('public.requests_id_seq'::regclass);
ALTER TABLE ONLY public.second_readings ALTER COLUMN id SET DEFAULT nextval('public.second_readings_id_seq'::regclass);
ALTER TABLE ONLY public.series ALTER COLUMN id SET DEFAULT nextval('public.series_id_seq'::regclass);
ALTER TABLE ONLY public.studies ALTER COLUMN id SET DEFAULT nextval('public.studies_id_seq'::regclass);
ALTER TABLE ONLY public.users ALTER COLUMN id SET DEFAULT nextval('public.users_id_seq'::regclass);
ALTER TABLE ONLY public.visible_objects ALTER COLUMN id SET DEFAULT nextval('public.visible_objects_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0017');
INSERT INTO public.audit_events VALUES (1, '2026-12-01 00:23:38.838049+00', 'store', 'refused', '1.9', 'why', 'PACS', '', '', '', NULL, '');
INSERT INTO public.backfill_units VALUES (1, 'unit-1', 'mark-1', 'done', 3, 1, 0, 700, '', '2026-12-01 00:23:38.837443+00');
INSERT INTO public.backfills VALUES (1, 'folder /films', '2026-12-01 00:23:38.837316+00');
INSERT INTO public.circuits VALUES ('PACS', 2, NULL);
INSERT INTO public.image_scores VALUES (1, 1, '\xcdcccc3d576a253e476e643e1cb9913e143bb13e0cbdd03e043ff03e7ee0073f7aa1173f7662273f7223373f6ee4463f6aa5563f6666663f', '2026-12-01 00:23:38.769836+00');
INSERT INTO public.instances VALUES (1, '1.1', 1, '1.2.840.10008.5.1.4.1.1.1.1', '1.5', NULL, '{"series_instance_uid": "1.3", "study_instance_uid": "1.4", "patient_id": "", "issuer_of_patient_id": "", "patient_sex": "", "patient_age": "", "accession_number": "A1", "study_date": "", "study_time": "", "study_description": "", "modality": "", "series_number": null, "series_description": "", "body_part_examined": "", "protocol_name": "", "manufacturer": "", "manufacturer_model_name": "", "station_name": "", "view_position": "PA", "view_code": "", "view_code_meaning": "", "anatomic_region_code": "", "anatomic_region_meaning": "", "image_type": [], "presentation_intent_type": "", "rows": null, "columns": null, "number_of_frames": null, "samples_per_pixel": null, "has_pixels": false, "conversion_type": ""}', 'aa/f.dcm', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 7, 'PACS', 'h', 'US', '2026-12-01 00:23:38.753968+00', '', 'stored', 0, '');
INSERT INTO public.jobs VALUES (1, 'send', '2.25.1', '{}', 'waiting', 100, '2026-12-01 00:23:38.837656+00', 0, '', '', NULL, '', '2026-12-01 00:23:38.837656+00', NULL);
INSERT INTO public.labels VALUES (1, 1, 'Mass', 'present', 'reader-1', 'csv', 'random', 0.5, NULL, '2026-12-01 00:23:38.835431+00', '2026-12-01 00:23:38.835431+00', '', 'none');
INSERT INTO public.labels VALUES (2, 1, 'Mass', NULL, 'reader-1', 'csv', '', NULL, 1, '2026-12-01 00:23:38.836589+00', '2026-12-01 00:23:38.836589+00', '', 'none');
INSERT INTO public.model_versions VALUES (1, 'serving', 'zero-shot-1', 'tiny', '0000000000000000000000000000000000000000000000000000000000000000', '2.25.1001', '', false, '', '{"Atelectasis": 0.5, "Cardiomegaly": 0.5, "Effusion": 0.5, "Infiltration": 0.5, "Mass": 0.5, "Nodule": 0.5, "Pneumonia": 0.5, "Pneumothorax": 0.5, "Consolidation": 0.5, "Edema": 0.5, "Emphysema": 0.5, "Fibrosis": 0.5, "Pleural_Thickening": 0.5, "Hernia": 0.5}', 0.05, '', '{"preprocess": {"fingerprint": "PRE"}, "prompts": {"fingerprint": "PROMPTS"}}', '2026-12-01 00:23:38.747002+00', '2026-12-01 00:23:38.747002+00', NULL, '{"Atelectasis": "band", "Cardiomegaly": "band", "Effusion": "band", "Infiltration": "band", "Mass": "band", "Nodule": "band", "Pneumonia": "band", "Pneumothorax": "band", "Consolidation": "band", "Edema": "band", "Emphysema": "band", "Fibrosis": "band", "Pleural_Thickening": "band", "Hernia": "band"}');
INSERT INTO public.patients VALUES (1, 'study:1.4', '', '', '', '2026-12-01 00:23:38.749627+00');
INSERT INTO public.predictions VALUES (1, 1, 'Atelectasis', 0.10000000149011612, 'absent', 1, '2026-12-01 00:23:38.774224+00', 'band', 0.10000000149011612, NULL, -2.197224560779374, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Cardiomegaly', 0.16153846681118011, 'absent', 1, '2026-12-01 00:23:38.774392+00', 'band', 0.16153846681118011, NULL, -1.646825405576519, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Effusion', 0.2230769246816635, 'absent', 1, '2026-12-01 00:23:38.774398+00', 'band', 0.2230769246816635, NULL, -1.2478246775956139, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Infiltration', 0.2846153974533081, 'absent', 1, '2026-12-01 00:23:38.774401+00', 'band', 0.2846153974533081, NULL, -0.9216815174573302, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Mass', 0.3461538553237915, 'absent', 1, '2026-12-01 00:23:38.774403+00', 'band', 0.3461538553237915, NULL, -0.6359887262044214, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Nodule', 0.4076923131942749, 'absent', 1, '2026-12-01 00:23:38.774405+00', 'band', 0.4076923131942749, NULL, -0.37351348551713526, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Pneumonia', 0.4692307710647583, 'absent', 1, '2026-12-01 00:23:38.774406+00', 'band', 0.4692307710647583, NULL, -0.12323263306010505, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Pneumothorax', 0.5307692289352417, 'present', 1, '2026-12-01 00:23:38.774408+00', 'band', 0.5307692289352417, NULL, 0.12323263306010514, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Consolidation', 0.5923076868057251, 'present', 1, '2026-12-01 00:23:38.774425+00', 'band', 0.5923076868057251, NULL, 0.37351348551713526, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Edema', 0.6538461446762085, 'present', 1, '2026-12-01 00:23:38.774428+00', 'band', 0.6538461446762085, NULL, 0.6359887262044214, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Emphysema', 0.7153846025466919, 'present', 1, '2026-12-01 00:23:38.77443+00', 'band', 0.7153846025466919, NULL, 0.9216815174573302, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Fibrosis', 0.7769230604171753, 'present', 1, '2026-12-01 00:23:38.774433+00', 'band', 0.7769230604171753, NULL, 1.2478245916175952, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Pleural_Thickening', 0.8384615182876587, 'present', 1, '2026-12-01 00:23:38.774435+00', 'band', 0.8384615182876587, NULL, 1.6468252955592153, NULL, '');
INSERT INTO public.predictions VALUES (1, 1, 'Hernia', 0.8999999761581421, 'present', 1, '2026-12-01 00:23:38.774437+00', 'band', 0.8999999761581421, NULL, 2.197224312426715, NULL, '');
INSERT INTO public.reports VALUES (1, '2.25.1', '2.25.1.1', 1, 1, 1, '', 'sent', NULL, 'bb/r.dcm', 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 9, '0x0000', '2026-12-01 00:23:38.776175+00', '2026-12-01 00:23:38.780335+00', '2026-12-01 00:23:38.78258+00', '', '');
INSERT INTO public.requests VALUES (1, 1, 'coverage', '', 'why', 0.25, 1, '2026-12-01 00:23:38.836932+00');
INSERT INTO public.series VALUES (1, '1.3', 1, '', NULL, '');
INSERT INTO public.studies VALUES (1, '1.4', 1, 'A1', '', '', '', '', 'arriving', '', 1, 1, false, '2026-12-01 00:23:38.750798+00', '2026-12-01 00:23:38.758706+00', NULL, NULL);
SELECT pg_catalog.setval('public.api_tokens_id_seq', 1, false);
SELECT pg_catalog.setval('public.audit_events_id_seq', 1, true);
SELECT pg_catalog.setval('public.backfills_id_seq', 1, true);
SELECT pg_catalog.setval('public.deliveries_id_seq', 1, false);
SELECT pg_catalog.setval('public.instance_conflicts_id_seq', 1, false);
SELECT pg_catalog.setval('public.instance_revisions_id_seq', 1, false);
SELECT pg_catalog.setval('public.instances_id_seq', 1, true);
SELECT pg_catalog.setval('public.jobs_id_seq', 1, true);
SELECT pg_catalog.setval('public.labels_id_seq', 2, true);
SELECT pg_catalog.setval('public.patients_id_seq', 1, true);
SELECT pg_catalog.setval('public.reader_documents_id_seq', 1, false);
SELECT pg_catalog.setval('public.readings_id_seq', 1, false);
SELECT pg_catalog.setval('public.report_stops_id_seq', 1, false);
SELECT pg_catalog.setval('public.reports_id_seq', 1, true);
SELECT pg_catalog.setval('public.requests_id_seq', 1, true);
SELECT pg_catalog.setval('public.second_readings_id_seq', 1, false);
SELECT pg_catalog.setval('public.series_id_seq', 1, true);
SELECT pg_catalog.setval('public.studies_id_seq', 1, true);
SELECT pg_catalog.setval('public.users_id_seq', 1, false);
SELECT pg_catalog.setval('public.visible_objects_id_seq', 1, false);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.api_tokens
    ADD CONSTRAINT pk_api_tokens PRIMARY KEY (id);
ALTER TABLE ONLY public.audit_deliveries
    ADD CONSTRAINT pk_audit_deliveries PRIMARY KEY (destination);
ALTER TABLE ONLY public.audit_events
    ADD CONSTRAINT pk_audit_events PRIMARY KEY (id);
ALTER TABLE ONLY public.backfill_days
    ADD CONSTRAINT pk_backfill_days PRIMARY KEY (backfill, day);
ALTER TABLE ONLY public.backfill_units
    ADD CONSTRAINT pk_backfill_units PRIMARY KEY (backfill, key);
ALTER TABLE ONLY public.backfilled_studies
    ADD CONSTRAINT pk_backfilled_studies PRIMARY KEY (study_instance_uid);
ALTER TABLE ONLY public.backfills
    ADD CONSTRAINT pk_backfills PRIMARY KEY (id);
ALTER TABLE ONLY public.circuits
    ADD CONSTRAINT pk_circuits PRIMARY KEY (destination);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT pk_deliveries PRIMARY KEY (id);
ALTER TABLE ONLY public.drafts
    ADD CONSTRAINT pk_drafts PRIMARY KEY (study, reader);
ALTER TABLE ONLY public.draw_keys
    ADD CONSTRAINT pk_draw_keys PRIMARY KEY (purpose);
ALTER TABLE ONLY public.erasures
    ADD CONSTRAINT pk_erasures PRIMARY KEY (patient);
ALTER TABLE ONLY public.exports
    ADD CONSTRAINT pk_exports PRIMARY KEY (directory);
ALTER TABLE ONLY public.image_references
    ADD CONSTRAINT pk_image_references PRIMARY KEY (number);
ALTER TABLE ONLY public.image_scores
    ADD CONSTRAINT pk_image_scores PRIMARY KEY (instance, version);
ALTER TABLE ONLY public.image_thumbnails
    ADD CONSTRAINT pk_image_thumbnails PRIMARY KEY (instance);
ALTER TABLE ONLY public.instance_conflicts
    ADD CONSTRAINT pk_instance_conflicts PRIMARY KEY (id);
ALTER TABLE ONLY public.instance_revisions
    ADD CONSTRAINT pk_instance_revisions PRIMARY KEY (id);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT pk_instances PRIMARY KEY (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT pk_jobs PRIMARY KEY (id);
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT pk_labels PRIMARY KEY (id);
ALTER TABLE ONLY public.model_versions
    ADD CONSTRAINT pk_model_versions PRIMARY KEY (number);
ALTER TABLE ONLY public.patients
    ADD CONSTRAINT pk_patients PRIMARY KEY (id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT pk_predictions PRIMARY KEY (study, version, finding);
ALTER TABLE ONLY public.pseudonym_keys
    ADD CONSTRAINT pk_pseudonym_keys PRIMARY KEY (patient);
ALTER TABLE ONLY public.reader_documents
    ADD CONSTRAINT pk_reader_documents PRIMARY KEY (id);
ALTER TABLE ONLY public.readings
    ADD CONSTRAINT pk_readings PRIMARY KEY (id);
ALTER TABLE ONLY public.reference_distributions
    ADD CONSTRAINT pk_reference_distributions PRIMARY KEY (number);
ALTER TABLE ONLY public.reference_scores
    ADD CONSTRAINT pk_reference_scores PRIMARY KEY (reference, view);
ALTER TABLE ONLY public.report_stops
    ADD CONSTRAINT pk_report_stops PRIMARY KEY (id);
ALTER TABLE ONLY public.reports
    ADD CONSTRAINT pk_reports PRIMARY KEY (id);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT pk_requests PRIMARY KEY (id);
ALTER TABLE ONLY public.reveals
    ADD CONSTRAINT pk_reveals PRIMARY KEY (study, reader);
ALTER TABLE ONLY public.second_readings
    ADD CONSTRAINT pk_second_readings PRIMARY KEY (id);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT pk_series PRIMARY KEY (id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT pk_studies PRIMARY KEY (id);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT pk_users PRIMARY KEY (id);
ALTER TABLE ONLY public.visible_objects
    ADD CONSTRAINT pk_visible_objects PRIMARY KEY (id);
ALTER TABLE ONLY public.api_tokens
    ADD CONSTRAINT uq_api_tokens_token_sha256 UNIQUE (token_sha256);
ALTER TABLE ONLY public.backfills
    ADD CONSTRAINT uq_backfills_source UNIQUE (source);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT uq_deliveries_sop_instance_uid_destination UNIQUE (sop_instance_uid, destination);
ALTER TABLE ONLY public.instance_conflicts
    ADD CONSTRAINT uq_instance_conflicts_instance_file_sha256 UNIQUE (instance, file_sha256);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT uq_instances_sop_instance_uid UNIQUE (sop_instance_uid);
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT uq_labels_id_study_finding UNIQUE (id, study, finding);
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT uq_labels_revokes UNIQUE (revokes);
ALTER TABLE ONLY public.model_versions
    ADD CONSTRAINT uq_model_versions_device_uid UNIQUE (device_uid);
ALTER TABLE ONLY public.patients
    ADD CONSTRAINT uq_patients_patient_key UNIQUE (patient_key);
ALTER TABLE ONLY public.reader_documents
    ADD CONSTRAINT uq_reader_documents_reading UNIQUE (reading);
ALTER TABLE ONLY public.reader_documents
    ADD CONSTRAINT uq_reader_documents_sop_instance_uid UNIQUE (sop_instance_uid);
ALTER TABLE ONLY public.readings
    ADD CONSTRAINT uq_readings_reader_idempotency_key UNIQUE (reader, idempotency_key);
ALTER TABLE ONLY public.reports
    ADD CONSTRAINT uq_reports_sop_instance_uid UNIQUE (sop_instance_uid);
ALTER TABLE ONLY public.reports
    ADD CONSTRAINT uq_reports_study_version_revision UNIQUE (study, version, revision);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT uq_requests_study UNIQUE (study);
ALTER TABLE ONLY public.second_readings
    ADD CONSTRAINT uq_second_readings_study UNIQUE (study);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT uq_series_study_series_instance_uid UNIQUE (study, series_instance_uid);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT uq_studies_study_instance_uid UNIQUE (study_instance_uid);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT uq_users_name UNIQUE (name);
ALTER TABLE ONLY public.visible_objects
    ADD CONSTRAINT uq_visible_objects_report_kind UNIQUE (report, kind);
ALTER TABLE ONLY public.visible_objects
    ADD CONSTRAINT uq_visible_objects_sop_instance_uid UNIQUE (sop_instance_uid);
CREATE INDEX ix_api_tokens_user_name ON public.api_tokens USING btree (user_name);
CREATE INDEX ix_audit_events_at ON public.audit_events USING btree (at);
CREATE INDEX ix_audit_events_patient ON public.audit_events USING btree (patient);
CREATE INDEX ix_audit_events_subject ON public.audit_events USING btree (subject);
CREATE INDEX ix_audit_events_unlinked ON public.audit_events USING btree (id, "position") WHERE ("position" IS NULL);
CREATE INDEX ix_deliveries_report ON public.deliveries USING btree (report);
CREATE INDEX ix_deliveries_transaction ON public.deliveries USING btree (transaction_uid) WHERE ((transaction_uid)::text <> ''::text);
CREATE INDEX ix_deliveries_unproven ON public.deliveries USING btree (sent_at) WHERE ((state)::text = 'sent'::text);
CREATE INDEX ix_image_thumbnails_unmeasured ON public.image_thumbnails USING btree (instance) WHERE (distance IS NULL);
CREATE INDEX ix_instance_conflicts_file_sha256 ON public.instance_conflicts USING btree (file_sha256);
CREATE INDEX ix_instance_conflicts_open ON public.instance_conflicts USING btree (id) WHERE ((resolution)::text = ''::text);
CREATE INDEX ix_instance_revisions_file_sha256 ON public.instance_revisions USING btree (file_sha256);
CREATE INDEX ix_instance_revisions_instance ON public.instance_revisions USING btree (instance);
CREATE INDEX ix_instance_revisions_undeleted ON public.instance_revisions USING btree (replaced_at) WHERE ((state)::text <> 'deleted'::text);
CREATE INDEX ix_instances_deleting ON public.instances USING btree (id, state) WHERE ((state)::text = 'deleting'::text);
CREATE INDEX ix_instances_file_sha256 ON public.instances USING btree (file_sha256);
CREATE INDEX ix_instances_received_at ON public.instances USING btree (received_at);
CREATE INDEX ix_instances_series ON public.instances USING btree (series);
CREATE INDEX ix_jobs_by_state ON public.jobs USING btree (state, id, kind);
CREATE INDEX ix_jobs_done ON public.jobs USING btree (finished_at) WHERE ((state)::text = 'done'::text);
CREATE INDEX ix_jobs_due ON public.jobs USING btree (kind, priority, run_at, id) WHERE ((state)::text = 'waiting'::text);
CREATE INDEX ix_jobs_learn ON public.jobs USING btree (id) WHERE ((kind)::text = 'learn'::text);
CREATE INDEX ix_jobs_quarantined ON public.jobs USING btree (kind, subject) WHERE ((state)::text = 'quarantined'::text);
CREATE INDEX ix_labels_document ON public.labels USING btree (document);
CREATE INDEX ix_labels_reader ON public.labels USING btree (reader, id);
CREATE INDEX ix_labels_statement ON public.labels USING btree (study, finding, reader, stated_at, id, state);
CREATE INDEX ix_patients_patient_id ON public.patients USING btree (patient_id);
CREATE INDEX ix_predictions_no_reference ON public.predictions USING btree (version, study, reason) WHERE ((reason)::text = 'no reference'::text);
CREATE INDEX ix_predictions_present ON public.predictions USING btree (predicted_at) WHERE ((decision)::text = 'present'::text);
CREATE INDEX ix_predictions_scored ON public.predictions USING btree (version, study, predicted_at) WHERE ((finding)::text = 'Atelectasis'::text);
CREATE INDEX ix_readings_study ON public.readings USING btree (study, reader);
CREATE INDEX ix_reports_created_at ON public.reports USING btree (created_at);
CREATE INDEX ix_reports_unsent ON public.reports USING btree (created_at) WHERE ((state)::text <> 'sent'::text);
CREATE INDEX ix_studies_accession_number ON public.studies USING btree (accession_number);
CREATE INDEX ix_studies_arriving ON public.studies USING btree (last_received_at) WHERE ((state)::text = 'arriving'::text);
CREATE INDEX ix_studies_last_received_at ON public.studies USING btree (last_received_at);
CREATE INDEX ix_studies_patient ON public.studies USING btree (patient);
CREATE INDEX ix_studies_study_date ON public.studies USING btree (study_date);
CREATE INDEX ix_studies_unreported ON public.studies USING btree (id) WHERE ((state)::text <> 'reported'::text);
CREATE UNIQUE INDEX uq_audit_events_position ON public.audit_events USING btree ("position");
CREATE UNIQUE INDEX uq_jobs_running ON public.jobs USING btree (kind, subject) WHERE ((state)::text = 'running'::text);
CREATE UNIQUE INDEX uq_jobs_waiting ON public.jobs USING btree (kind, subject) WHERE ((state)::text = 'waiting'::text);
CREATE UNIQUE INDEX uq_labels_document ON public.labels USING btree (document, study, finding, reader) WHERE (((document)::text <> ''::text) AND (state IS NOT NULL));
CREATE UNIQUE INDEX uq_model_versions_serving ON public.model_versions USING btree (state) WHERE ((state)::text = 'serving'::text);
CREATE UNIQUE INDEX uq_report_stops_finding ON public.report_stops USING btree (finding) WHERE (resumed_at IS NULL);
CREATE TRIGGER audit_events_no_delete BEFORE DELETE OR TRUNCATE ON public.audit_events FOR EACH STATEMENT EXECUTE FUNCTION public.audit_events_refuse();
CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON public.audit_events FOR EACH ROW WHEN ((NOT ((new.id = old.id) AND (new.at = old.at) AND ((new.action)::text = (old.action)::text) AND ((new.outcome)::text = (old.outcome)::text) AND ((new.source)::text = (old.source)::text) AND (((old."position" IS NULL) AND (new."position" IS NOT NULL) AND ((new.subject)::text = (old.subject)::text) AND (new.detail = old.detail) AND (((old.patient)::text = ''::text) OR ((new.patient)::text = (old.patient)::text))) OR ((old."position" IS NOT NULL) AND (new."position" = old."position") AND ((new.chain_sha256)::text = (old.chain_sha256)::text) AND ((new.content_sha256)::text = (old.content_sha256)::text) AND ((new.patient)::text = (old.patient)::text) AND ((new.subject)::text = ''::text) AND (new.detail = ''::text) AND ((new.salt)::text = ''::text)))))) EXECUTE FUNCTION public.audit_events_refuse();
CREATE TRIGGER labels_append_only BEFORE UPDATE OR TRUNCATE ON public.labels FOR EACH STATEMENT EXECUTE FUNCTION public.labels_refuse();
CREATE TRIGGER labels_no_delete BEFORE DELETE ON public.labels FOR EACH ROW EXECUTE FUNCTION public.labels_refuse_delete();
CREATE TRIGGER requests_append_only BEFORE UPDATE OR TRUNCATE ON public.requests FOR EACH STATEMENT EXECUTE FUNCTION public.requests_refuse();
CREATE TRIGGER requests_no_delete BEFORE DELETE ON public.requests FOR EACH ROW EXECUTE FUNCTION public.requests_refuse_delete();
ALTER TABLE ONLY public.api_tokens
    ADD CONSTRAINT fk_api_tokens_user_name FOREIGN KEY (user_name) REFERENCES public.users(name);
ALTER TABLE ONLY public.backfill_days
    ADD CONSTRAINT fk_backfill_days_backfill FOREIGN KEY (backfill) REFERENCES public.backfills(id);
ALTER TABLE ONLY public.backfill_units
    ADD CONSTRAINT fk_backfill_units_backfill FOREIGN KEY (backfill) REFERENCES public.backfills(id);
ALTER TABLE ONLY public.backfilled_studies
    ADD CONSTRAINT fk_backfilled_studies_backfill FOREIGN KEY (backfill) REFERENCES public.backfills(id);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT fk_deliveries_report FOREIGN KEY (report) REFERENCES public.reports(id);
ALTER TABLE ONLY public.drafts
    ADD CONSTRAINT fk_drafts_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.erasures
    ADD CONSTRAINT fk_erasures_patient FOREIGN KEY (patient) REFERENCES public.patients(id);
ALTER TABLE ONLY public.image_scores
    ADD CONSTRAINT fk_image_scores_instance FOREIGN KEY (instance) REFERENCES public.instances(id);
ALTER TABLE ONLY public.image_scores
    ADD CONSTRAINT fk_image_scores_version FOREIGN KEY (version) REFERENCES public.model_versions(number);
ALTER TABLE ONLY public.image_thumbnails
    ADD CONSTRAINT fk_image_thumbnails_instance FOREIGN KEY (instance) REFERENCES public.instances(id);
ALTER TABLE ONLY public.instance_conflicts
    ADD CONSTRAINT fk_instance_conflicts_instance FOREIGN KEY (instance) REFERENCES public.instances(id);
ALTER TABLE ONLY public.instance_revisions
    ADD CONSTRAINT fk_instance_revisions_instance FOREIGN KEY (instance) REFERENCES public.instances(id);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT fk_instances_series FOREIGN KEY (series) REFERENCES public.series(id);
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT fk_labels_revokes_study_finding FOREIGN KEY (revokes, study, finding) REFERENCES public.labels(id, study, finding);
ALTER TABLE ONLY public.labels
    ADD CONSTRAINT fk_labels_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT fk_predictions_reference FOREIGN KEY (reference) REFERENCES public.reference_distributions(number);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT fk_predictions_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.predictions
    ADD CONSTRAINT fk_predictions_version FOREIGN KEY (version) REFERENCES public.model_versions(number);
ALTER TABLE ONLY public.pseudonym_keys
    ADD CONSTRAINT fk_pseudonym_keys_patient FOREIGN KEY (patient) REFERENCES public.patients(id);
ALTER TABLE ONLY public.reader_documents
    ADD CONSTRAINT fk_reader_documents_reading FOREIGN KEY (reading) REFERENCES public.readings(id);
ALTER TABLE ONLY public.readings
    ADD CONSTRAINT fk_readings_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.reference_distributions
    ADD CONSTRAINT fk_reference_distributions_version FOREIGN KEY (version) REFERENCES public.model_versions(number);
ALTER TABLE ONLY public.reference_scores
    ADD CONSTRAINT fk_reference_scores_reference FOREIGN KEY (reference) REFERENCES public.reference_distributions(number);
ALTER TABLE ONLY public.reports
    ADD CONSTRAINT fk_reports_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.reports
    ADD CONSTRAINT fk_reports_version FOREIGN KEY (version) REFERENCES public.model_versions(number);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.requests
    ADD CONSTRAINT fk_requests_version FOREIGN KEY (version) REFERENCES public.model_versions(number);
ALTER TABLE ONLY public.reveals
    ADD CONSTRAINT fk_reveals_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.second_readings
    ADD CONSTRAINT fk_second_readings_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.second_readings
    ADD CONSTRAINT fk_second_readings_version FOREIGN KEY (version) REFERENCES public.model_versions(number);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT fk_series_study FOREIGN KEY (study) REFERENCES public.studies(id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT fk_studies_patient FOREIGN KEY (patient) REFERENCES public.patients(id);
ALTER TABLE ONLY public.visible_objects
    ADD CONSTRAINT fk_visible_objects_report FOREIGN KEY (report) REFERENCES public.reports(id);
