BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0017');
CREATE TABLE api_tokens (
	id INTEGER NOT NULL, 
	user_name VARCHAR(64) NOT NULL, 
	token_sha256 VARCHAR(64) NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_api_tokens PRIMARY KEY (id), 
	CONSTRAINT fk_api_tokens_user_name FOREIGN KEY(user_name) REFERENCES users (name), 
	CONSTRAINT uq_api_tokens_token_sha256 UNIQUE (token_sha256)
);
CREATE TABLE audit_deliveries (
	destination VARCHAR(255) NOT NULL, 
	position BIGINT NOT NULL, 
	delivered_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_audit_deliveries PRIMARY KEY (destination)
);
CREATE TABLE audit_events (
	id INTEGER NOT NULL, 
	at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	action VARCHAR(32) NOT NULL, 
	outcome VARCHAR(16) NOT NULL, 
	subject VARCHAR(128) NOT NULL, 
	detail TEXT NOT NULL, 
	source VARCHAR(128) NOT NULL, patient VARCHAR(32) DEFAULT '' NOT NULL, salt VARCHAR(32) DEFAULT '' NOT NULL, content_sha256 VARCHAR(64) DEFAULT '' NOT NULL, position BIGINT, chain_sha256 VARCHAR(64) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_audit_events PRIMARY KEY (id), 
	CONSTRAINT ck_audit_events_outcome CHECK (outcome IN ('done', 'refused', 'failed'))
);
INSERT INTO "audit_events" VALUES(1,'2026-12-01 00:23:38.105+00:00','store','refused','1.9','why','PACS','','','',NULL,'');
CREATE TABLE backfill_days (
	backfill INTEGER NOT NULL, 
	day VARCHAR(8) NOT NULL, 
	done_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_backfill_days PRIMARY KEY (backfill, day), 
	CONSTRAINT fk_backfill_days_backfill FOREIGN KEY(backfill) REFERENCES backfills (id)
);
CREATE TABLE backfill_units (
	backfill INTEGER NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	mark VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	instances INTEGER NOT NULL, 
	duplicates INTEGER NOT NULL, 
	refused INTEGER NOT NULL, 
	bytes BIGINT NOT NULL, 
	error TEXT DEFAULT '' NOT NULL, 
	finished_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_backfill_units PRIMARY KEY (backfill, "key"), 
	CONSTRAINT ck_backfill_units_state CHECK (state IN ('done', 'failed')), 
	CONSTRAINT ck_backfill_units_failed_says_why CHECK ((state = 'failed') = (error <> '')), 
	CONSTRAINT fk_backfill_units_backfill FOREIGN KEY(backfill) REFERENCES backfills (id)
)
 WITHOUT ROWID

;
INSERT INTO "backfill_units" VALUES(1,'unit-1','mark-1','done',3,1,0,700,'','2026-12-01 00:23:38.102+00:00');
CREATE TABLE backfilled_studies (
	study_instance_uid VARCHAR(64) NOT NULL, 
	backfill INTEGER NOT NULL, 
	brought_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	ended_at TEXT, 
	CONSTRAINT pk_backfilled_studies PRIMARY KEY (study_instance_uid), 
	CONSTRAINT fk_backfilled_studies_backfill FOREIGN KEY(backfill) REFERENCES backfills (id)
)
 WITHOUT ROWID

;
CREATE TABLE backfills (
	id INTEGER NOT NULL, 
	source VARCHAR(255) NOT NULL, 
	begun_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_backfills PRIMARY KEY (id), 
	CONSTRAINT uq_backfills_source UNIQUE (source)
);
INSERT INTO "backfills" VALUES(1,'folder /films','2026-12-01 00:23:38.101+00:00');
CREATE TABLE circuits (
	destination VARCHAR(64) NOT NULL, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	open_until TEXT, 
	CONSTRAINT pk_circuits PRIMARY KEY (destination)
);
INSERT INTO "circuits" VALUES('PACS',2,NULL);
CREATE TABLE deliveries (
	id INTEGER NOT NULL, 
	report INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	status TEXT DEFAULT '' NOT NULL, 
	sendings INTEGER DEFAULT '0' NOT NULL, 
	transaction_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	sent_at TEXT, 
	committed_at TEXT, 
	verified_at TEXT, 
	checked_at TEXT, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT ck_deliveries_state CHECK (state IN ('waiting', 'sent', 'committed', 'verified', 'refused')), 
	CONSTRAINT ck_deliveries_sent_has_a_time CHECK (state NOT IN ('sent', 'committed', 'verified') OR sent_at IS NOT NULL), 
	CONSTRAINT ck_deliveries_committed_has_a_time CHECK (state <> 'committed' OR committed_at IS NOT NULL), 
	CONSTRAINT ck_deliveries_verified_has_a_time CHECK (state <> 'verified' OR verified_at IS NOT NULL), 
	CONSTRAINT fk_deliveries_report FOREIGN KEY(report) REFERENCES reports (id), 
	CONSTRAINT uq_deliveries_sop_instance_uid_destination UNIQUE (sop_instance_uid, destination)
);
CREATE TABLE drafts (
	study INTEGER NOT NULL, 
	reader VARCHAR(64) NOT NULL, 
	content JSON NOT NULL, 
	updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_drafts PRIMARY KEY (study, reader), 
	CONSTRAINT fk_drafts_study FOREIGN KEY(study) REFERENCES studies (id)
);
CREATE TABLE draw_keys (
	purpose VARCHAR(16) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_draw_keys PRIMARY KEY (purpose)
);
CREATE TABLE erasures (
	patient INTEGER NOT NULL, 
	begun_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_erasures PRIMARY KEY (patient), 
	CONSTRAINT fk_erasures_patient FOREIGN KEY(patient) REFERENCES patients (id)
);
CREATE TABLE exports (
	directory VARCHAR(1024) NOT NULL, 
	made_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_exports PRIMARY KEY (directory)
);
CREATE TABLE image_references (
	number INTEGER NOT NULL, 
	pixels BLOB NOT NULL, 
	distance_limit FLOAT NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_image_references PRIMARY KEY (number), 
	CONSTRAINT ck_image_references_ck_image_references_number CHECK (number = 1)
);
CREATE TABLE image_scores (
	instance INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	scores BLOB NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_image_scores PRIMARY KEY (instance, version), 
	CONSTRAINT fk_image_scores_instance FOREIGN KEY(instance) REFERENCES instances (id), 
	CONSTRAINT fk_image_scores_version FOREIGN KEY(version) REFERENCES model_versions (number), 
	CONSTRAINT ck_image_scores_scores CHECK (length(scores) = 56)
)
 WITHOUT ROWID

;
INSERT INTO "image_scores" VALUES(1,1,X'CDCCCC3D576A253E476E643E1CB9913E143BB13E0CBDD03E043FF03E7EE0073F7AA1173F7662273F7223373F6EE4463F6AA5563F6666663F','2026-12-01 00:23:38.085+00:00');
CREATE TABLE image_thumbnails (
	instance INTEGER NOT NULL, 
	pixels BLOB NOT NULL, 
	distance FLOAT, 
	CONSTRAINT pk_image_thumbnails PRIMARY KEY (instance), 
	CONSTRAINT fk_image_thumbnails_instance FOREIGN KEY(instance) REFERENCES instances (id), 
	CONSTRAINT ck_image_thumbnails_ck_image_thumbnails_pixels CHECK (length(pixels) = 196)
)
 WITHOUT ROWID

;
CREATE TABLE instance_conflicts (
	id INTEGER NOT NULL, 
	instance INTEGER NOT NULL, 
	header JSON NOT NULL, 
	file_key VARCHAR(128) NOT NULL, 
	file_sha256 VARCHAR(64) NOT NULL, 
	file_size BIGINT NOT NULL, 
	file_xxh3 VARCHAR(32) DEFAULT '' NOT NULL, 
	sender_ae_title VARCHAR(64) NOT NULL, 
	sender_address VARCHAR(64) NOT NULL, 
	called_ae_title VARCHAR(64) NOT NULL, 
	received_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	resolution VARCHAR(16) DEFAULT '' NOT NULL, 
	resolved_at TEXT, 
	CONSTRAINT pk_instance_conflicts PRIMARY KEY (id), 
	CONSTRAINT ck_instance_conflicts_resolution CHECK (resolution IN ('', 'stored', 'received')), 
	CONSTRAINT ck_instance_conflicts_resolved_has_a_time CHECK ((resolution = '') = (resolved_at IS NULL)), 
	CONSTRAINT fk_instance_conflicts_instance FOREIGN KEY(instance) REFERENCES instances (id), 
	CONSTRAINT uq_instance_conflicts_instance_file_sha256 UNIQUE (instance, file_sha256)
);
CREATE TABLE instance_revisions (
	id INTEGER NOT NULL, 
	instance INTEGER NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	difference TEXT NOT NULL, 
	file_key VARCHAR(128) NOT NULL, 
	file_sha256 VARCHAR(64) NOT NULL, 
	file_size BIGINT NOT NULL, 
	file_xxh3 VARCHAR(32) DEFAULT '' NOT NULL, 
	state VARCHAR(16) DEFAULT 'stored' NOT NULL, 
	replaced_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_instance_revisions PRIMARY KEY (id), 
	CONSTRAINT ck_instance_revisions_state CHECK (state IN ('stored', 'deleting', 'deleted')), 
	CONSTRAINT fk_instance_revisions_instance FOREIGN KEY(instance) REFERENCES instances (id)
);
CREATE TABLE instances (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	series INTEGER NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	instance_number BIGINT, 
	header JSON NOT NULL, 
	file_key VARCHAR(128) NOT NULL, 
	file_sha256 VARCHAR(64) NOT NULL, 
	file_size BIGINT NOT NULL, 
	sender_ae_title VARCHAR(64) NOT NULL, 
	sender_address VARCHAR(64) NOT NULL, 
	called_ae_title VARCHAR(64) NOT NULL, 
	received_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, file_xxh3 VARCHAR(32) DEFAULT '' NOT NULL, state VARCHAR(16) DEFAULT 'stored' NOT NULL CONSTRAINT ck_instances_state CHECK (state IN ('stored', 'deleting', 'deleted')), revision INTEGER DEFAULT '0' NOT NULL, pixels_sha256 VARCHAR(64) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_instances PRIMARY KEY (id), 
	CONSTRAINT ck_instances_file_size CHECK (file_size > 0), 
	CONSTRAINT fk_instances_series FOREIGN KEY(series) REFERENCES series (id), 
	CONSTRAINT uq_instances_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "instances" VALUES(1,'1.1',1,'1.2.840.10008.5.1.4.1.1.1.1','1.5',NULL,'{"series_instance_uid": "1.3", "study_instance_uid": "1.4", "patient_id": "", "issuer_of_patient_id": "", "patient_sex": "", "patient_age": "", "accession_number": "A1", "study_date": "", "study_time": "", "study_description": "", "modality": "", "series_number": null, "series_description": "", "body_part_examined": "", "protocol_name": "", "manufacturer": "", "manufacturer_model_name": "", "station_name": "", "view_position": "PA", "view_code": "", "view_code_meaning": "", "anatomic_region_code": "", "anatomic_region_meaning": "", "image_type": [], "presentation_intent_type": "", "rows": null, "columns": null, "number_of_frames": null, "samples_per_pixel": null, "has_pixels": false, "conversion_type": ""}','aa/f.dcm','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',7,'PACS','h','US','2026-12-01 00:23:38.084+00:00','','stored',0,'');
CREATE TABLE "jobs" (
	id INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	subject VARCHAR(64) NOT NULL, 
	payload JSON NOT NULL, 
	state VARCHAR(16) DEFAULT 'waiting' NOT NULL, 
	priority INTEGER DEFAULT '100' NOT NULL, 
	run_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	worker VARCHAR(128) DEFAULT '' NOT NULL, 
	lease_token VARCHAR(32) DEFAULT '' NOT NULL, 
	lease_until TEXT, 
	error TEXT DEFAULT '' NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	finished_at TEXT, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT ck_jobs_running_is_leased CHECK ((state = 'running') = (lease_until IS NOT NULL)), 
	CONSTRAINT ck_jobs_kind CHECK (kind IN ('score', 'report', 'send', 'label', 'learn')), 
	CONSTRAINT ck_jobs_state CHECK (state IN ('waiting', 'running', 'done', 'quarantined'))
);
INSERT INTO "jobs" VALUES(1,'send','2.25.1','{}','waiting',100,'2026-12-01 00:23:38.103+00:00',0,'','',NULL,'','2026-12-01 00:23:38.103+00:00',NULL);
CREATE TABLE "labels" (
	id INTEGER NOT NULL, 
	study INTEGER NOT NULL, 
	finding VARCHAR(32) NOT NULL, 
	state VARCHAR(16), 
	reader VARCHAR(64) NOT NULL, 
	source VARCHAR(64) NOT NULL, 
	selection_reason VARCHAR(64) DEFAULT '' NOT NULL, 
	selection_probability FLOAT, 
	revokes INTEGER, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	stated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	document VARCHAR(64) DEFAULT '' NOT NULL, exposure VARCHAR(16) DEFAULT 'none' NOT NULL CONSTRAINT ck_labels_exposure CHECK (exposure IN ('none', 'possible', 'seen')), 
	CONSTRAINT pk_labels PRIMARY KEY (id), 
	CONSTRAINT ck_labels_state CHECK (state IN ('present', 'absent', 'uncertain')), 
	CONSTRAINT ck_labels_selection_probability CHECK (selection_probability > 0 AND selection_probability <= 1), 
	CONSTRAINT ck_labels_finding CHECK (finding IN ('Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia')), 
	CONSTRAINT ck_labels_says_something CHECK (state IS NOT NULL OR revokes IS NOT NULL), 
	CONSTRAINT fk_labels_revokes_study_finding FOREIGN KEY(revokes, study, finding) REFERENCES labels (id, study, finding), 
	CONSTRAINT fk_labels_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT uq_labels_revokes UNIQUE (revokes), 
	CONSTRAINT uq_labels_id_study_finding UNIQUE (id, study, finding)
);
INSERT INTO "labels" VALUES(1,1,'Mass','present','reader-1','csv','random',0.5,NULL,'2026-12-01 00:23:38.097+00:00','2026-12-01 00:23:38.097+00:00','','none');
INSERT INTO "labels" VALUES(2,1,'Mass',NULL,'reader-1','csv','',NULL,1,'2026-12-01 00:23:38.099+00:00','2026-12-01 00:23:38.099+00:00','','none');
CREATE TABLE model_versions (
	number INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	base VARCHAR(128) NOT NULL, 
	weights_sha256 VARCHAR(64) NOT NULL, 
	device_uid VARCHAR(64) NOT NULL, 
	notice VARCHAR(64) DEFAULT '' NOT NULL, 
	calibrated BOOLEAN DEFAULT false NOT NULL, 
	label_fingerprint VARCHAR(64) DEFAULT '' NOT NULL, 
	thresholds JSON NOT NULL, 
	undetermined_margin FLOAT NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	card JSON NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	served_at TEXT, 
	retired_at TEXT, scales JSON DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_model_versions PRIMARY KEY (number), 
	CONSTRAINT ck_model_versions_rejected_says_why CHECK (state <> 'rejected' OR reason <> ''), 
	CONSTRAINT ck_model_versions_state CHECK (state IN ('candidate', 'serving', 'retired', 'rejected')), 
	CONSTRAINT uq_model_versions_device_uid UNIQUE (device_uid)
);
INSERT INTO "model_versions" VALUES(1,'serving','zero-shot-1','tiny','0000000000000000000000000000000000000000000000000000000000000000','2.25.1001','',0,'','{"Atelectasis": 0.5, "Cardiomegaly": 0.5, "Effusion": 0.5, "Infiltration": 0.5, "Mass": 0.5, "Nodule": 0.5, "Pneumonia": 0.5, "Pneumothorax": 0.5, "Consolidation": 0.5, "Edema": 0.5, "Emphysema": 0.5, "Fibrosis": 0.5, "Pleural_Thickening": 0.5, "Hernia": 0.5}',0.05,'','{"preprocess": {"fingerprint": "PRE"}, "prompts": {"fingerprint": "PROMPTS"}}','2026-12-01 00:23:38.081+00:00','2026-12-01 00:23:38.081+00:00',NULL,'{"Atelectasis": "band", "Cardiomegaly": "band", "Effusion": "band", "Infiltration": "band", "Mass": "band", "Nodule": "band", "Pneumonia": "band", "Pneumothorax": "band", "Consolidation": "band", "Edema": "band", "Emphysema": "band", "Fibrosis": "band", "Pleural_Thickening": "band", "Hernia": "band"}');
CREATE TABLE patients (
	id INTEGER NOT NULL, 
	patient_key VARCHAR(300) NOT NULL, 
	patient_id VARCHAR(128) NOT NULL, 
	issuer_of_patient_id VARCHAR(128) NOT NULL, 
	patient_sex VARCHAR(16) NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_patients PRIMARY KEY (id), 
	CONSTRAINT uq_patients_patient_key UNIQUE (patient_key)
);
INSERT INTO "patients" VALUES(1,'study:1.4','','','','2026-12-01 00:23:38.082+00:00');
CREATE TABLE "predictions" (
	study INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	finding VARCHAR(32) NOT NULL, 
	score FLOAT NOT NULL, 
	decision VARCHAR(16) NOT NULL, 
	revision INTEGER NOT NULL, 
	predicted_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	scale VARCHAR(16) NOT NULL, 
	likelihood FLOAT, 
	percentile FLOAT, 
	excess FLOAT, 
	reference INTEGER, 
	reason VARCHAR(16) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_predictions PRIMARY KEY (study, version, finding), 
	CONSTRAINT fk_predictions_reference FOREIGN KEY(reference) REFERENCES reference_distributions (number), 
	CONSTRAINT ck_predictions_score CHECK (score BETWEEN 0 AND 1), 
	CONSTRAINT ck_predictions_likelihood CHECK (likelihood BETWEEN 0 AND 1), 
	CONSTRAINT ck_predictions_percentile CHECK (percentile BETWEEN 0 AND 1), 
	CONSTRAINT ck_predictions_assessed_has_a_likelihood CHECK ((decision = 'not assessed') = (likelihood IS NULL)), 
	CONSTRAINT ck_predictions_not_assessed_says_why CHECK ((decision = 'not assessed') = (reason <> '')), 
	CONSTRAINT ck_predictions_scale CHECK (scale IN ('probability', 'band', 'rank')), 
	CONSTRAINT ck_predictions_reason CHECK (reason IN ('', 'no reference', 'stopped', 'age', 'age unknown', 'withdrawn')), 
	CONSTRAINT ck_predictions_finding CHECK (finding IN ('Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia')), 
	CONSTRAINT ck_predictions_decision CHECK (decision IN ('present', 'absent', 'undetermined', 'not assessed')), 
	CONSTRAINT fk_predictions_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT fk_predictions_version FOREIGN KEY(version) REFERENCES model_versions (number)
)
 WITHOUT ROWID

;
INSERT INTO "predictions" VALUES(1,1,'Atelectasis',1.00000001490116119384e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',1.00000001490116119384e-01,NULL,-2.19722456077937389196e+00,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Cardiomegaly',1.61538466811180114746e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',1.61538466811180114746e-01,NULL,-1.64682540557651901913e+00,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Consolidation',5.92307686805725097656e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',5.92307686805725097656e-01,NULL,3.73513485517135257474e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Edema',6.53846144676208496093e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',6.53846144676208496093e-01,NULL,6.35988726204421372933e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Effusion',2.23076924681663513183e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',2.23076924681663513183e-01,NULL,-1.24782467759561388476e+00,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Emphysema',7.15384602546691894531e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',7.15384602546691894531e-01,NULL,9.21681517457330179432e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Fibrosis',7.76923060417175292968e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',7.76923060417175292968e-01,NULL,1.24782459161759518018e+00,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Hernia',8.99999976158142089843e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',8.99999976158142089843e-01,NULL,2.19722431242671500939e+00,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Infiltration',2.84615397453308105468e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',2.84615397453308105468e-01,NULL,-9.21681517457330179432e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Mass',3.46153855323791503906e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',3.46153855323791503906e-01,NULL,-6.35988726204421372933e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Nodule',4.07692313194274902343e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',4.07692313194274902343e-01,NULL,-3.73513485517135257474e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Pleural_Thickening',8.38461518287658691406e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',8.38461518287658691406e-01,NULL,1.6468252955592153075e+00,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Pneumonia',4.69230771064758300781e-01,'absent',1,'2026-12-01 00:23:38.087+00:00','band',4.69230771064758300781e-01,NULL,-1.23232633060105054023e-01,NULL,'');
INSERT INTO "predictions" VALUES(1,1,'Pneumothorax',5.30769228935241699218e-01,'present',1,'2026-12-01 00:23:38.087+00:00','band',5.30769228935241699218e-01,NULL,1.2323263306010513729e-01,NULL,'');
CREATE TABLE pseudonym_keys (
	patient INTEGER NOT NULL, 
	"key" BLOB NOT NULL, 
	CONSTRAINT pk_pseudonym_keys PRIMARY KEY (patient), 
	CONSTRAINT ck_pseudonym_keys_key CHECK (length(key) = 32), 
	CONSTRAINT fk_pseudonym_keys_patient FOREIGN KEY(patient) REFERENCES patients (id)
);
CREATE TABLE reader_documents (
	id INTEGER NOT NULL, 
	reading INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	file_key VARCHAR(128), 
	file_sha256 VARCHAR(64), 
	file_size BIGINT, 
	status TEXT DEFAULT '' NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	built_at TEXT, 
	sent_at TEXT, 
	CONSTRAINT pk_reader_documents PRIMARY KEY (id), 
	CONSTRAINT ck_reader_documents_state CHECK (state IN ('pending', 'built', 'sent', 'refused')), 
	CONSTRAINT ck_reader_documents_built_has_bytes CHECK (state IN ('pending', 'refused') OR file_sha256 IS NOT NULL), 
	CONSTRAINT fk_reader_documents_reading FOREIGN KEY(reading) REFERENCES readings (id), 
	CONSTRAINT uq_reader_documents_reading UNIQUE (reading), 
	CONSTRAINT uq_reader_documents_sop_instance_uid UNIQUE (sop_instance_uid)
);
CREATE TABLE readings (
	id INTEGER NOT NULL, 
	study INTEGER NOT NULL, 
	reader VARCHAR(64) NOT NULL, 
	idempotency_key VARCHAR(64) NOT NULL, 
	skip_reason VARCHAR(64) DEFAULT '' NOT NULL, 
	states JSON NOT NULL, 
	points JSON NOT NULL, 
	comment TEXT DEFAULT '' NOT NULL, 
	exposure VARCHAR(16) NOT NULL, 
	read_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, is_repeat BOOLEAN DEFAULT false NOT NULL, 
	CONSTRAINT pk_readings PRIMARY KEY (id), 
	CONSTRAINT ck_readings_exposure CHECK (exposure IN ('none', 'possible', 'seen')), 
	CONSTRAINT fk_readings_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT uq_readings_reader_idempotency_key UNIQUE (reader, idempotency_key)
);
CREATE TABLE reference_distributions (
	number INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	studies INTEGER NOT NULL, 
	priors JSON NOT NULL, 
	call_rates JSON NOT NULL, 
	separation FLOAT NOT NULL, 
	made_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_reference_distributions PRIMARY KEY (number), 
	CONSTRAINT ck_reference_distributions_studies CHECK (studies > 0), 
	CONSTRAINT fk_reference_distributions_version FOREIGN KEY(version) REFERENCES model_versions (number)
);
CREATE TABLE reference_scores (
	reference INTEGER NOT NULL, 
	"view" VARCHAR(8) NOT NULL, 
	scores BLOB NOT NULL, 
	CONSTRAINT pk_reference_scores PRIMARY KEY (reference, "view"), 
	CONSTRAINT fk_reference_scores_reference FOREIGN KEY(reference) REFERENCES reference_distributions (number)
);
CREATE TABLE report_stops (
	id INTEGER NOT NULL, 
	finding VARCHAR(32) NOT NULL, 
	reason TEXT NOT NULL, 
	source VARCHAR(128) DEFAULT '' NOT NULL, 
	stopped_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	resumed_at TEXT, 
	CONSTRAINT pk_report_stops PRIMARY KEY (id), 
	CONSTRAINT ck_report_stops_finding CHECK (finding IN ('', 'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia')), 
	CONSTRAINT ck_report_stops_says_why CHECK (reason <> '')
);
CREATE TABLE reports (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	study INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	sop_class_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	predecessor VARCHAR(64), 
	file_key VARCHAR(128), 
	file_sha256 VARCHAR(64), 
	file_size BIGINT, 
	status TEXT DEFAULT '' NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	built_at TEXT, 
	sent_at TEXT, withdrawal TEXT DEFAULT '' NOT NULL, withheld VARCHAR(16) DEFAULT '' NOT NULL CONSTRAINT ck_reports_withheld CHECK (withheld IN ('', 'shadow', 'silent share')) CONSTRAINT ck_reports_withheld_is_not_sent CHECK (withheld = '' OR state <> 'sent'), 
	CONSTRAINT pk_reports PRIMARY KEY (id), 
	CONSTRAINT ck_reports_sent_has_a_time CHECK (state <> 'sent' OR sent_at IS NOT NULL), 
	CONSTRAINT ck_reports_state CHECK (state IN ('pending', 'built', 'sent', 'refused')), 
	CONSTRAINT ck_reports_built_has_bytes CHECK (state IN ('pending', 'refused') OR file_sha256 IS NOT NULL), 
	CONSTRAINT fk_reports_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT fk_reports_version FOREIGN KEY(version) REFERENCES model_versions (number), 
	CONSTRAINT uq_reports_sop_instance_uid UNIQUE (sop_instance_uid), 
	CONSTRAINT uq_reports_study_version_revision UNIQUE (study, version, revision)
);
INSERT INTO "reports" VALUES(1,'2.25.1','2.25.1.1',1,1,1,'','sent',NULL,'bb/r.dcm','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee',9,'0x0000','2026-12-01 00:23:38.088+00:00','2026-12-01 00:23:38.090+00:00','2026-12-01 00:23:38.090+00:00','','');
CREATE TABLE requests (
	id INTEGER NOT NULL, 
	study INTEGER NOT NULL, 
	selection_reason VARCHAR(64) NOT NULL, 
	finding VARCHAR(32) DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	selection_probability FLOAT NOT NULL, 
	version INTEGER NOT NULL, 
	requested_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_requests PRIMARY KEY (id), 
	CONSTRAINT ck_requests_finding CHECK (finding IN ('', 'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia')), 
	CONSTRAINT ck_requests_says_why CHECK (selection_reason <> ''), 
	CONSTRAINT ck_requests_selection_probability CHECK (selection_probability > 0 AND selection_probability <= 1), 
	CONSTRAINT fk_requests_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT fk_requests_version FOREIGN KEY(version) REFERENCES model_versions (number), 
	CONSTRAINT uq_requests_study UNIQUE (study)
);
INSERT INTO "requests" VALUES(1,1,'coverage','','why',0.25,1,'2026-12-01 00:23:38.100+00:00');
CREATE TABLE reveals (
	study INTEGER NOT NULL, 
	reader VARCHAR(64) NOT NULL, 
	revealed_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_reveals PRIMARY KEY (study, reader), 
	CONSTRAINT fk_reveals_study FOREIGN KEY(study) REFERENCES studies (id)
);
CREATE TABLE second_readings (
	id INTEGER NOT NULL, 
	study INTEGER NOT NULL, 
	finding VARCHAR(32) NOT NULL, 
	reason TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	requested_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_second_readings PRIMARY KEY (id), 
	CONSTRAINT fk_second_readings_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT fk_second_readings_version FOREIGN KEY(version) REFERENCES model_versions (number), 
	CONSTRAINT uq_second_readings_study UNIQUE (study), 
	CONSTRAINT ck_second_readings_ck_second_readings_finding CHECK (finding IN ('Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia'))
);
CREATE TABLE series (
	id INTEGER NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	study INTEGER NOT NULL, 
	modality VARCHAR(16) NOT NULL, 
	series_number BIGINT, 
	series_description VARCHAR(128) NOT NULL, 
	CONSTRAINT pk_series PRIMARY KEY (id), 
	CONSTRAINT fk_series_study FOREIGN KEY(study) REFERENCES studies (id), 
	CONSTRAINT uq_series_study_series_instance_uid UNIQUE (study, series_instance_uid)
);
INSERT INTO "series" VALUES(1,'1.3',1,'',NULL,'');
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	patient INTEGER NOT NULL, 
	accession_number VARCHAR(64) NOT NULL, 
	study_date VARCHAR(8) NOT NULL, 
	study_time VARCHAR(16) NOT NULL, 
	study_description VARCHAR(128) NOT NULL, 
	patient_age VARCHAR(4) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	revision INTEGER DEFAULT '0' NOT NULL, 
	instance_count INTEGER DEFAULT '0' NOT NULL, 
	released BOOLEAN DEFAULT false NOT NULL, 
	received_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	last_received_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, silent BOOLEAN, files_deleted_at TEXT, 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT ck_studies_ignored_says_why CHECK (state <> 'ignored' OR reason <> ''), 
	CONSTRAINT ck_studies_state CHECK (state IN ('arriving', 'settled', 'scored', 'reported', 'ignored')), 
	CONSTRAINT ck_studies_revision CHECK (revision >= 0), 
	CONSTRAINT fk_studies_patient FOREIGN KEY(patient) REFERENCES patients (id), 
	CONSTRAINT uq_studies_study_instance_uid UNIQUE (study_instance_uid)
);
INSERT INTO "studies" VALUES(1,'1.4',1,'A1','','','','','arriving','',1,1,0,'2026-12-01 00:23:38.083+00:00','2026-12-01 00:23:38.085+00:00',NULL,NULL);
CREATE TABLE users (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	password_hash VARCHAR(256) NOT NULL, 
	session_key VARCHAR(64) NOT NULL, 
	disabled BOOLEAN DEFAULT false NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	CONSTRAINT pk_users PRIMARY KEY (id), 
	CONSTRAINT ck_users_role CHECK (role IN ('viewer', 'reader', 'operator', 'administrator')), 
	CONSTRAINT uq_users_name UNIQUE (name)
);
CREATE TABLE visible_objects (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	report INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sop_class_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	predecessor VARCHAR(64), 
	file_key VARCHAR(128), 
	file_sha256 VARCHAR(64), 
	file_size BIGINT, 
	status TEXT DEFAULT '' NOT NULL, 
	created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')) NOT NULL, 
	built_at TEXT, 
	sent_at TEXT, 
	CONSTRAINT pk_visible_objects PRIMARY KEY (id), 
	CONSTRAINT ck_visible_objects_kind CHECK (kind IN ('text', 'card')), 
	CONSTRAINT ck_visible_objects_state CHECK (state IN ('pending', 'built', 'sent', 'refused')), 
	CONSTRAINT ck_visible_objects_built_has_bytes CHECK (state IN ('pending', 'refused') OR file_sha256 IS NOT NULL), 
	CONSTRAINT ck_visible_objects_sent_has_a_time CHECK (state <> 'sent' OR sent_at IS NOT NULL), 
	CONSTRAINT fk_visible_objects_report FOREIGN KEY(report) REFERENCES reports (id), 
	CONSTRAINT uq_visible_objects_report_kind UNIQUE (report, kind), 
	CONSTRAINT uq_visible_objects_sop_instance_uid UNIQUE (sop_instance_uid)
);
CREATE INDEX ix_audit_events_at ON audit_events (at);
CREATE UNIQUE INDEX uq_model_versions_serving ON model_versions (state) WHERE state = 'serving';
CREATE INDEX ix_studies_accession_number ON studies (accession_number);
CREATE INDEX ix_studies_arriving ON studies (last_received_at) WHERE state = 'arriving';
CREATE INDEX ix_studies_patient ON studies (patient);
CREATE INDEX ix_instances_file_sha256 ON instances (file_sha256);
CREATE INDEX ix_instances_series ON instances (series);
CREATE TRIGGER labels_no_replace BEFORE INSERT ON labels WHEN EXISTS (SELECT 1 FROM labels WHERE id = NEW.id OR revokes = NEW.revokes) OR (NEW.state IS NOT NULL AND EXISTS (SELECT 1 FROM labels WHERE document <> '' AND document = NEW.document AND study = NEW.study AND finding = NEW.finding AND reader = NEW.reader AND state IS NOT NULL)) BEGIN SELECT RAISE(ABORT, 'labels are append-only: UNIQUE constraint'); END;
CREATE INDEX ix_jobs_due ON jobs (kind, priority, run_at, id) WHERE state = 'waiting';
CREATE UNIQUE INDEX uq_jobs_running ON jobs (kind, subject) WHERE state = 'running';
CREATE UNIQUE INDEX uq_jobs_waiting ON jobs (kind, subject) WHERE state = 'waiting';
CREATE UNIQUE INDEX uq_labels_document ON labels (document, study, finding, reader) WHERE document <> '' AND state IS NOT NULL;
CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests BEGIN SELECT RAISE(ABORT, 'requests are append-only'); END;
CREATE TRIGGER requests_no_replace BEFORE INSERT ON requests WHEN EXISTS (SELECT 1 FROM requests WHERE id = NEW.id OR study = NEW.study) BEGIN SELECT RAISE(ABORT, 'requests are append-only: UNIQUE constraint'); END;
CREATE INDEX ix_patients_patient_id ON patients (patient_id);
CREATE INDEX ix_studies_study_date ON studies (study_date);
CREATE INDEX ix_studies_last_received_at ON studies (last_received_at);
CREATE INDEX ix_studies_unreported ON studies (id) WHERE state <> 'reported';
CREATE INDEX ix_instances_received_at ON instances (received_at);
CREATE INDEX ix_labels_document ON labels (document);
CREATE INDEX ix_labels_reader ON labels (reader, id);
CREATE INDEX ix_labels_statement ON labels (study, finding, reader, stated_at, id, state);
CREATE INDEX ix_reports_created_at ON reports (created_at);
CREATE INDEX ix_reports_unsent ON reports (created_at) WHERE state <> 'sent';
CREATE INDEX ix_jobs_quarantined ON jobs (kind, subject) WHERE state = 'quarantined';
CREATE INDEX ix_jobs_done ON jobs (finished_at) WHERE state = 'done';
CREATE INDEX ix_jobs_learn ON jobs (id) WHERE kind = 'learn';
CREATE INDEX ix_jobs_by_state ON jobs (state, id, kind);
CREATE INDEX ix_audit_events_subject ON audit_events (subject);
CREATE UNIQUE INDEX uq_report_stops_finding ON report_stops (finding) WHERE resumed_at IS NULL;
CREATE INDEX ix_predictions_present ON predictions (predicted_at) WHERE decision = 'present';
CREATE INDEX ix_predictions_scored ON predictions (version, study, predicted_at) WHERE finding = 'Atelectasis';
CREATE INDEX ix_predictions_no_reference ON predictions (version, study, reason) WHERE reason = 'no reference';
CREATE TRIGGER labels_no_update BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
CREATE INDEX ix_api_tokens_user_name ON api_tokens (user_name);
CREATE INDEX ix_readings_study ON readings (study, reader);
CREATE INDEX ix_image_thumbnails_unmeasured ON image_thumbnails (instance) WHERE distance IS NULL;
CREATE INDEX ix_deliveries_report ON deliveries (report);
CREATE INDEX ix_deliveries_unproven ON deliveries (sent_at) WHERE state = 'sent';
CREATE INDEX ix_deliveries_transaction ON deliveries (transaction_uid) WHERE transaction_uid <> '';
CREATE INDEX ix_instances_deleting ON instances (id, state) WHERE state = 'deleting';
CREATE INDEX ix_instance_revisions_instance ON instance_revisions (instance);
CREATE INDEX ix_instance_revisions_file_sha256 ON instance_revisions (file_sha256);
CREATE INDEX ix_instance_revisions_undeleted ON instance_revisions (replaced_at) WHERE state <> 'deleted';
CREATE INDEX ix_instance_conflicts_file_sha256 ON instance_conflicts (file_sha256);
CREATE INDEX ix_instance_conflicts_open ON instance_conflicts (id) WHERE resolution = '';
CREATE UNIQUE INDEX uq_audit_events_position ON audit_events (position);
CREATE INDEX ix_audit_events_patient ON audit_events (patient);
CREATE INDEX ix_audit_events_unlinked ON audit_events (id, position) WHERE position IS NULL;
CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events WHEN NOT (NEW.id = OLD.id AND NEW.at = OLD.at AND NEW.action = OLD.action AND NEW.outcome = OLD.outcome AND NEW.source = OLD.source AND ((OLD.position IS NULL AND NEW.position IS NOT NULL AND NEW.subject = OLD.subject AND NEW.detail = OLD.detail AND (OLD.patient = '' OR NEW.patient = OLD.patient)) OR (OLD.position IS NOT NULL AND NEW.position = OLD.position AND NEW.chain_sha256 = OLD.chain_sha256 AND NEW.content_sha256 = OLD.content_sha256 AND NEW.patient = OLD.patient AND NEW.subject = '' AND NEW.detail = '' AND NEW.salt = ''))) BEGIN SELECT RAISE(ABORT, 'audit_events are append-only'); END;
CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events BEGIN SELECT RAISE(ABORT, 'audit_events are append-only'); END;
CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events WHEN EXISTS (SELECT 1 FROM audit_events WHERE id = NEW.id OR position = NEW.position) BEGIN SELECT RAISE(ABORT, 'audit_events are append-only: UNIQUE constraint'); END;
CREATE TRIGGER labels_no_delete BEFORE DELETE ON labels WHEN NOT EXISTS (SELECT 1 FROM erasures e JOIN studies s ON s.patient = e.patient WHERE s.id = OLD.study) BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests WHEN NOT EXISTS (SELECT 1 FROM erasures e JOIN studies s ON s.patient = e.patient WHERE s.id = OLD.study) BEGIN SELECT RAISE(ABORT, 'requests are append-only'); END;
CREATE VIEW v_studies AS 
SELECT s.study_instance_uid, s.accession_number, t.patient_id, t.issuer_of_patient_id, t.patient_sex, s.patient_age,
    s.study_date, s.study_time, s.study_description, s.state, s.reason, s.revision, s.instance_count,
    s.received_at, s.last_received_at, s.files_deleted_at, CASE WHEN s.silent THEN 1 WHEN s.silent IS NOT NULL THEN 0 END AS silent
FROM studies s JOIN patients t ON t.id = s.patient;
CREATE VIEW v_instances AS 
SELECT i.sop_instance_uid, r.series_instance_uid, s.study_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, r.modality,
    r.series_number, i.instance_number, i.header ->> 'view_position' AS view_position,
    i.header ->> 'body_part_examined' AS body_part_examined, i.header ->> 'manufacturer_model_name' AS manufacturer_model_name,
    i.file_key, i.file_sha256, i.file_size, i.sender_ae_title, i.sender_address, i.received_at, n.distance,
    CASE WHEN n.distance > 1 THEN 1 WHEN n.distance IS NOT NULL THEN 0 END AS unusable, i.state, i.revision
FROM instances i JOIN series r ON r.id = i.series JOIN studies s ON s.id = r.study
    LEFT JOIN image_thumbnails n ON n.instance = i.id;
CREATE VIEW v_instance_revisions AS 
SELECT v.id AS number, i.sop_instance_uid, v.transfer_syntax_uid, v.difference, v.file_key, v.file_sha256, v.file_size, v.state,
    v.replaced_at
FROM instance_revisions v JOIN instances i ON i.id = v.instance;
CREATE VIEW v_conflicts AS 
SELECT c.id AS conflict, i.sop_instance_uid, s.study_instance_uid, i.file_key AS stored_file_key, c.file_key, c.file_sha256,
    c.file_size, c.sender_ae_title, c.sender_address, c.received_at, c.resolution, c.resolved_at
FROM instance_conflicts c JOIN instances i ON i.id = c.instance JOIN series r ON r.id = i.series
    JOIN studies s ON s.id = r.study;
CREATE VIEW v_predictions AS 
SELECT s.study_instance_uid, s.accession_number, p.finding, p.decision, p.scale, CASE WHEN p.scale = 'probability' THEN p.likelihood END AS probability, CASE WHEN p.likelihood < 0.02 THEN 'very unlikely' WHEN p.likelihood < 0.1 THEN 'unlikely' WHEN p.likelihood < 0.5 THEN 'possible' WHEN p.likelihood < 0.9 THEN 'likely' WHEN p.likelihood IS NOT NULL THEN 'very likely' END AS band, p.percentile,
    CASE WHEN p.scale = 'rank' THEN CAST(d.priors ->> p.finding AS FLOAT)
        ELSE CAST(m.card -> 'learning' -> 'measures' -> p.finding ->> 'prevalence' AS FLOAT) END AS prevalence,
    CASE WHEN p.decision = 'not assessed' THEN NULL
        WHEN p.scale = 'rank' THEN 1 - CAST(d.call_rates ->> p.finding AS FLOAT)
        ELSE CAST(m.thresholds ->> p.finding AS FLOAT) END AS operating_point, p.excess, p.reason, p.reference, p.score,
    p.version, m.name AS version_name, m.notice, p.revision, p.predicted_at
FROM predictions p JOIN studies s ON s.id = p.study AND s.revision = p.revision JOIN model_versions m ON m.number = p.version
    LEFT JOIN reference_distributions d ON d.number = p.reference;
CREATE VIEW v_findings_wide AS 
SELECT s.study_instance_uid, s.accession_number, s.study_date, m.number AS version, m.notice,
    p.excess AS atelectasis,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Cardiomegaly') AS cardiomegaly,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Effusion') AS effusion,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Infiltration') AS infiltration,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Mass') AS mass,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Nodule') AS nodule,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Pneumonia') AS pneumonia,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Pneumothorax') AS pneumothorax,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Consolidation') AS consolidation,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Edema') AS edema,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Emphysema') AS emphysema,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Fibrosis') AS fibrosis,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Pleural_Thickening') AS pleural_thickening,
    (SELECT q.excess FROM predictions q WHERE q.study = p.study AND q.version = p.version AND q.finding = 'Hernia') AS hernia
FROM studies s CROSS JOIN predictions p CROSS JOIN model_versions m
WHERE p.study = s.id AND p.revision = s.revision AND p.finding = 'Atelectasis' AND m.number = p.version;
CREATE VIEW v_reports AS 
SELECT r.sop_instance_uid, r.series_instance_uid, r.sop_class_uid, s.study_instance_uid, s.accession_number, r.version, r.revision,
    r.state, r.predecessor, r.file_key, r.file_sha256, r.status, r.created_at, r.built_at, r.sent_at, r.withdrawal, r.withheld
FROM reports r JOIN studies s ON s.id = r.study;
CREATE VIEW v_visible_objects AS 
SELECT v.sop_instance_uid, v.series_instance_uid, v.sop_class_uid, s.study_instance_uid, s.accession_number, v.kind,
    r.sop_instance_uid AS report_sop_instance_uid, r.version, r.revision, v.state, v.predecessor, v.file_key, v.file_sha256,
    v.status, v.created_at, v.built_at, v.sent_at
FROM visible_objects v JOIN reports r ON r.id = v.report JOIN studies s ON s.id = r.study;
CREATE VIEW v_deliveries AS 
SELECT d.sop_instance_uid, d.sop_class_uid, d.destination, s.study_instance_uid, s.accession_number,
    r.sop_instance_uid AS report_sop_instance_uid, d.state, d.status, d.sendings, d.created_at, d.sent_at, d.committed_at,
    d.verified_at, d.checked_at
FROM deliveries d JOIN reports r ON r.id = d.report JOIN studies s ON s.id = r.study;
CREATE VIEW v_lineage AS 
SELECT r.sop_instance_uid, s.study_instance_uid, r.revision, r.state AS delivery, r.status, r.created_at, r.built_at, r.sent_at,
    r.file_sha256 AS report_sha256, r.predecessor, i.sop_instance_uid AS image_sop_instance_uid, i.file_key AS image_file_key,
    i.file_sha256 AS image_sha256, r.version, m.name AS version_name, m.device_uid, m.notice, m.weights_sha256,
    m.card -> 'preprocess' ->> 'fingerprint' AS preprocessing, m.card -> 'prompts' ->> 'fingerprint' AS prompts,
    m.label_fingerprint, m.card ->> 'calibration' AS calibration, f.column1 AS finding, p.decision, p.scale, CASE WHEN p.scale = 'probability' THEN p.likelihood END AS probability, CASE WHEN p.likelihood < 0.02 THEN 'very unlikely' WHEN p.likelihood < 0.1 THEN 'unlikely' WHEN p.likelihood < 0.5 THEN 'possible' WHEN p.likelihood < 0.9 THEN 'likely' WHEN p.likelihood IS NOT NULL THEN 'very likely' END AS band, p.percentile,
    CASE WHEN p.scale = 'rank' THEN CAST(d.priors ->> p.finding AS FLOAT)
        ELSE CAST(m.card -> 'learning' -> 'measures' -> p.finding ->> 'prevalence' AS FLOAT) END AS prevalence,
    CASE WHEN p.decision = 'not assessed' THEN NULL
        WHEN p.scale = 'rank' THEN 1 - CAST(d.call_rates ->> p.finding AS FLOAT)
        ELSE CAST(m.thresholds ->> p.finding AS FLOAT) END AS operating_point, p.excess,
    p.reason, p.reference, p.score, m.undetermined_margin
FROM reports r JOIN studies s ON s.id = r.study JOIN model_versions m ON m.number = r.version
    JOIN series e ON e.study = s.id JOIN instances i ON i.series = e.id
    JOIN image_scores g ON g.instance = i.id AND g.version = r.version AND g.created_at <= r.created_at
    CROSS JOIN (VALUES ('Atelectasis'), ('Cardiomegaly'), ('Effusion'), ('Infiltration'), ('Mass'), ('Nodule'), ('Pneumonia'), ('Pneumothorax'), ('Consolidation'), ('Edema'), ('Emphysema'), ('Fibrosis'), ('Pleural_Thickening'), ('Hernia')) AS f
    LEFT JOIN predictions p
        ON p.study = r.study AND p.version = r.version AND p.revision = r.revision AND p.finding = f.column1
    LEFT JOIN reference_distributions d ON d.number = p.reference;
CREATE VIEW v_labels AS 
SELECT l.id, s.study_instance_uid, s.accession_number, l.finding, l.state, l.reader, l.source, l.selection_reason,
    l.selection_probability, l.created_at,
    CASE WHEN (SELECT x.id FROM labels x WHERE x.revokes = l.id) IS NOT NULL OR EXISTS (
        SELECT 1 FROM labels x WHERE x.study = l.study AND x.finding = l.finding AND x.reader = l.reader AND x.state IS NOT NULL
            AND (x.stated_at > l.stated_at OR (x.stated_at = l.stated_at AND x.id > l.id))) THEN 1 ELSE 0 END AS revoked,
    l.stated_at, l.document, l.exposure
FROM labels l JOIN studies s ON s.id = l.study WHERE l.state IS NOT NULL;
CREATE VIEW v_readings AS 
SELECT r.id, s.study_instance_uid, s.accession_number, r.reader, r.skip_reason, r.states, r.points, r.comment, r.exposure,
    r.read_at, CASE WHEN r.is_repeat THEN 1 ELSE 0 END AS repeated, d.sop_instance_uid AS document, d.state AS document_state,
    d.sent_at
FROM readings r JOIN studies s ON s.id = r.study
    LEFT JOIN reader_documents d ON d.reading = r.id;
CREATE VIEW v_users AS 
SELECT name, role, disabled, created_at
FROM users;
CREATE VIEW v_worklist AS 
SELECT s.study_instance_uid, s.accession_number, s.study_date, q.selection_reason, q.finding, q.reason, q.selection_probability,
    q.version, q.requested_at,
    (SELECT MIN(l.created_at) FROM labels l WHERE l.study = q.study AND l.state IS NOT NULL) AS labelled_at
FROM requests q JOIN studies s ON s.id = q.study;
CREATE VIEW v_second_readings AS 
SELECT s.study_instance_uid, s.accession_number, q.finding, q.reason, q.version, q.requested_at,
    (SELECT MIN(l.created_at) FROM labels l WHERE l.study = q.study AND l.state IS NOT NULL AND l.created_at > q.requested_at)
        AS labelled_at
FROM second_readings q JOIN studies s ON s.id = q.study;
CREATE VIEW v_model_versions AS 
SELECT number, state, name, base, weights_sha256, device_uid, notice, calibrated, label_fingerprint, scales, thresholds,
    undetermined_margin, reason, card, created_at, served_at, retired_at,
    (SELECT MAX(d.number) FROM reference_distributions d WHERE d.version = number) AS reference
FROM model_versions;
CREATE VIEW v_references AS 
SELECT number, version, studies, priors, call_rates, separation, made_at
FROM reference_distributions;
CREATE VIEW v_report_stops AS 
SELECT finding, reason, source, stopped_at, resumed_at
FROM report_stops;
CREATE VIEW v_rescoring AS 
SELECT m.number AS version, m.name AS version_name, m.served_at, t.studies - o.studies AS studies,
    COALESCE(a.scored, 0) - o.scored AS scored, COALESCE(a.scored_since, 0) - o.scored_since AS scored_since, a.last_scored_at
FROM model_versions m CROSS JOIN (SELECT COUNT(*) AS studies FROM studies) t
    CROSS JOIN (
        SELECT COUNT(*) AS studies, COUNT(p.study) AS scored,
            COUNT(CASE WHEN p.predicted_at >= n.served_at THEN 1 END) AS scored_since
        FROM studies s LEFT JOIN model_versions n ON n.state = 'serving'
            LEFT JOIN predictions p ON p.study = s.id AND p.version = n.number AND p.finding = 'Atelectasis'
        WHERE s.state <> 'reported' AND (s.state <> 'scored' OR COALESCE(
            (SELECT CASE WHEN r.withheld = '' THEN r.state ELSE 'refused' END
                FROM reports r WHERE r.study = s.id ORDER BY r.id DESC LIMIT 1),
            (SELECT 'refused' FROM backfilled_studies k WHERE k.study_instance_uid = s.study_instance_uid), '') <> 'refused')) o
    LEFT JOIN (
        SELECT p.version, COUNT(*) AS scored, COUNT(CASE WHEN p.predicted_at >= n.served_at THEN 1 END) AS scored_since,
            MAX(p.predicted_at) AS last_scored_at
        FROM model_versions n JOIN predictions p ON p.version = n.number
        WHERE n.state = 'serving' AND p.finding = 'Atelectasis'
        GROUP BY p.version) a ON a.version = m.number
WHERE m.state = 'serving' AND t.studies > o.studies;
CREATE VIEW v_learning AS 
SELECT j.id AS job, j.state, j.created_at, j.attempts, j.worker, j.stage, j.done, j.total,
    j.seconds / NULLIF(j.done, 0) * (j.total - j.done) AS seconds_left, j.result, j.reason, j.version, j.error, j.finished_at
FROM (SELECT id, state, created_at, attempts, worker, error, finished_at,
        CASE WHEN state = 'running' AND payload ->> 'lease' = lease_token THEN payload ->> 'stage' END AS stage,
        CASE WHEN state = 'running' AND payload ->> 'lease' = lease_token THEN CAST(payload ->> 'done' AS INTEGER) END AS done,
        CASE WHEN state = 'running' AND payload ->> 'lease' = lease_token THEN CAST(payload ->> 'total' AS INTEGER) END AS total,
        CASE WHEN state = 'running' AND payload ->> 'lease' = lease_token THEN CAST(payload ->> 'seconds' AS FLOAT) END AS seconds,
        payload ->> 'result' AS result, payload ->> 'reason' AS reason, CAST(payload ->> 'version' AS INTEGER) AS version
    FROM jobs WHERE kind = 'learn') j;
CREATE VIEW v_backfills AS 
SELECT b.source, b.begun_at, (SELECT COUNT(*) FROM backfill_days d WHERE d.backfill = b.id) AS days_done,
    COUNT(CASE WHEN p.state = 'done' THEN 1 END) AS units_done, COUNT(CASE WHEN p.state = 'failed' THEN 1 END) AS units_failed,
    CAST(COALESCE(SUM(p.instances), 0) AS BIGINT) AS instances, CAST(COALESCE(SUM(p.refused), 0) AS BIGINT) AS refused,
    CAST(COALESCE(SUM(p.bytes), 0) AS BIGINT) AS bytes, MAX(p.finished_at) AS last_at,
    (SELECT e.error FROM backfill_units e WHERE e.backfill = b.id AND e.state = 'failed'
        ORDER BY e.finished_at DESC LIMIT 1) AS last_error
FROM backfills b LEFT JOIN backfill_units p ON p.backfill = b.id GROUP BY b.id, b.source, b.begun_at;
CREATE VIEW v_audit AS 
SELECT id, at, action, outcome, subject, detail, source, patient AS patient_pseudonym, position, chain_sha256
FROM audit_events;
CREATE VIEW v_jobs AS 
SELECT id, kind, subject, state, priority, run_at, attempts, worker, lease_until, error, created_at, finished_at
FROM jobs;
COMMIT;
