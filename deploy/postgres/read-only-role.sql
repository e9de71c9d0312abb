-- A role that may read the promised views (v_*) and nothing else.
-- Run it as a superuser, because it creates roles, after `radclipd db upgrade`:
--   psql -d radclipd -v reader=alice -f read-only-role.sql
-- Then set the password of the reader: \password alice

SELECT 'CREATE ROLE radclipd_readers NOLOGIN'
WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'radclipd_readers') \gexec

SELECT format('CREATE ROLE %I LOGIN', :'reader')
WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = :'reader') \gexec

GRANT radclipd_readers TO :"reader";
SELECT format('GRANT radclipd_readers TO %I', pg_get_userbyid(datdba)) FROM pg_database WHERE datname = current_database() \gexec
ALTER ROLE :"reader" SET default_transaction_read_only = on;
ALTER ROLE :"reader" SET statement_timeout = '60s';

GRANT USAGE ON SCHEMA public TO radclipd_readers;
GRANT SELECT ON v_studies, v_instances, v_instance_revisions, v_conflicts, v_predictions, v_findings_wide, v_reports, v_deliveries, v_visible_objects, v_lineage, v_labels, v_readings,
    v_users, v_worklist, v_second_readings, v_model_versions, v_rescoring, v_learning, v_jobs, v_backfills, v_audit, v_references,
    v_report_stops
TO radclipd_readers;
