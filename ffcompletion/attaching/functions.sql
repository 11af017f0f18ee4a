-- What all attachments share, in the schema of ff_completion_event.
CREATE TABLE IF NOT EXISTS {schema}.ff_attachment (
    name            text PRIMARY KEY,
    relation_schema text NOT NULL,
    relation_name   text NOT NULL,
    definition      jsonb NOT NULL,
    attached_at     timestamptz NOT NULL DEFAULT now(),
    -- Whether every job of the table has had its record: then one without came and went unseen.
    whole           boolean NOT NULL DEFAULT false
);
ALTER TABLE {schema}.ff_attachment ADD COLUMN IF NOT EXISTS whole boolean NOT NULL DEFAULT false;

-- The UUID of a job (or, with flow, of the flow that a value stands for); ffcompletion.attached_id says the same.
CREATE OR REPLACE FUNCTION {schema}.ff_attached_uuid(attachment text, key text, flow boolean DEFAULT false) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $ff$
DECLARE
    digest text;
    whole  boolean;
BEGIN
    -- Most keys are whole numbers: those that surely fit come first, by few words, each of which costs something anew in
    -- each transaction.
    whole := $2 ~ '^(0|-?[1-9][0-9]{{0,17}})$';
    IF NOT whole THEN
        IF $2 ~ '^[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}$' THEN
            RETURN $2::uuid;
        END IF;
        IF $2 ~ '^-?[1-9][0-9]{{18}}$' THEN
            whole := $2::numeric BETWEEN -9223372036854775808 AND 9223372036854775807;
        END IF;
    END IF;
    IF whole THEN
        RETURN (left(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 12) || CASE WHEN $3 THEN '8fe' ELSE '8ff' END
                || overlay(lpad(to_hex($2::bigint), 16, '0') PLACING '8' FROM 2 FOR 0))::uuid;
    END IF;
    digest := encode(sha256(convert_to($1, 'UTF8') || decode('00', 'hex') || convert_to($2, 'UTF8')), 'hex');
    RETURN (left(digest, 12) || '8' || CASE WHEN $3 THEN 'fc' ELSE 'fd' END || substr(digest, 13, 1) || '8'
            || substr(digest, 14, 15))::uuid;
END $ff$;

CREATE OR REPLACE FUNCTION {schema}.ff_attached_id(attachment text, key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $ff$
    SELECT '{{fp:' || get_byte(uuid_send(id), 15) || '}}:' || id FROM (SELECT {schema}.ff_attached_uuid($1, $2) AS id) made
$ff$;

-- The bytes of a result of this type, which reads so: of a domain over bytea its own, of anything else its text.
CREATE OR REPLACE FUNCTION {schema}.ff_attached_bytes(kind regtype, shown text) RETURNS bytea
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $ff$
DECLARE
    base oid := $1;
BEGIN
    WHILE base <> 0 LOOP
        IF base = 'bytea'::regtype THEN
            RETURN decode(substr($2, 3), 'hex');
        END IF;
        base := (SELECT t.typbasetype FROM pg_type t WHERE t.oid = base);
    END LOOP;
    RETURN convert_to($2, 'UTF8');
END $ff$;

-- One job as it is now: a record, and a row in the outbox where it has finished. Called by the triggers alone, whose
-- pinned search_path holds here too, so whatever is ours is named with its schema.
--   outcome   NULL while it has not finished
--   came      whether the row is new, and may only have been moved
--   gone      whether the row was deleted
CREATE OR REPLACE FUNCTION {schema}.ff_attached_record(
    attachment text, key text, outcome text, flow text, namespace text, tags jsonb, result bytea, came boolean, gone boolean
) RETURNS void LANGUAGE plpgsql AS $ff$
#variable_conflict use_column
DECLARE
    id        constant uuid := {schema}.ff_attached_uuid($1, $2);
    part      constant smallint := get_byte(uuid_send(id), 15);
    flow_uuid constant uuid := {schema}.ff_attached_uuid($1, nullif($4, ''), true);
    now_ms    constant bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    facts     constant jsonb := jsonb_strip_nulls(jsonb_build_object('namespace', $5, 'tags', $6, 'attachment', $1,
                                                                     'attached_outcome', $3));
    state     constant text := CASE $3 WHEN 'success' THEN 'completed' ELSE $3 END;
    known     record;
    event     bigint;
BEGIN
    IF $8 THEN
        SELECT public_state, raw_fields->'gone' AS gone INTO known FROM {schema}.ff_exec_core
        WHERE partition_key = part AND execution_id = id FOR UPDATE;
        IF FOUND AND known.gone->>'transaction' = pg_current_xact_id()::text THEN
            -- Deleted and inserted again in one transaction, as a row is that moves to another partition: it never went.
            DELETE FROM {schema}.ff_completion_event
            WHERE partition_key = part AND event_id = (known.gone->>'event')::bigint;
        ELSIF FOUND AND known.public_state = state THEN
            RETURN;
        END IF;
    END IF;
    INSERT INTO {schema}.ff_exec_core AS core
        (partition_key, execution_id, flow_id, lifecycle_phase, public_state, cancellation_reason, created_at_ms,
         terminal_at_ms, result, raw_fields)
    VALUES (part, id, flow_uuid,
            CASE WHEN $3 IS NULL THEN 'submitted' WHEN $3 = 'cancelled' THEN 'cancelled' ELSE 'terminal' END,
            coalesce(state, 'waiting'), CASE $3 WHEN 'cancelled' THEN 'requested' END,
            now_ms, CASE WHEN $3 IS NOT NULL THEN now_ms END, $7, facts)
    ON CONFLICT (partition_key, execution_id) DO UPDATE SET
        lifecycle_phase = excluded.lifecycle_phase, public_state = excluded.public_state,
        cancellation_reason = excluded.cancellation_reason, terminal_at_ms = excluded.terminal_at_ms,
        result = excluded.result, flow_id = excluded.flow_id, raw_fields = excluded.raw_fields;
    IF $3 IS NOT NULL THEN
        INSERT INTO {schema}.ff_completion_event (partition_key, execution_id, flow_id, outcome, namespace, occurred_at_ms)
        VALUES (part, id, flow_uuid, $3, $5, now_ms) RETURNING event_id INTO event;
        IF $9 THEN
            UPDATE {schema}.ff_exec_core SET raw_fields = raw_fields || jsonb_build_object('gone',
                jsonb_build_object('transaction', pg_current_xact_id()::text, 'event', event))
            WHERE partition_key = part AND execution_id = id;
        END IF;
    END IF;
END $ff$;

-- Nobody but the triggers announces a job, and they run with their owner's rights.
REVOKE ALL ON FUNCTION {schema}.ff_attached_record FROM PUBLIC;

-- Records that are pruned or deleted: from then on, a job without one is no news.
CREATE OR REPLACE FUNCTION {schema}.ff_attached_forgotten() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp AS $ff$
BEGIN
    IF to_regclass('ff_attachment') IS NULL THEN
        RETURN NULL;
    ELSIF TG_OP = 'TRUNCATE' THEN
        UPDATE ff_attachment SET whole = false WHERE whole;
    ELSE
        UPDATE ff_attachment SET whole = false
        WHERE whole AND name IN (SELECT DISTINCT raw_fields->>'attachment' FROM forgotten);
    END IF;
    RETURN NULL;
END $ff$;
REVOKE ALL ON FUNCTION {schema}.ff_attached_forgotten() FROM PUBLIC;
DO $ff$ BEGIN
    -- Without the owner's rights there is none: then it is never known that every job has had its record.
    IF EXISTS (SELECT FROM pg_class WHERE oid = to_regclass({regclass}) AND pg_has_role(relowner, 'USAGE'))
       AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass({regclass}) AND tgname = 'ff_attached_emptied') THEN
        -- Before there was one, nobody took note.
        UPDATE {schema}.ff_attachment SET whole = false;
        CREATE TRIGGER ff_attached_forgotten AFTER DELETE ON {schema}.ff_exec_core REFERENCING OLD TABLE AS forgotten
            FOR EACH STATEMENT EXECUTE FUNCTION {schema}.ff_attached_forgotten();
        CREATE TRIGGER ff_attached_emptied AFTER TRUNCATE ON {schema}.ff_exec_core
            FOR EACH STATEMENT EXECUTE FUNCTION {schema}.ff_attached_forgotten();
    END IF;
END $ff$;
