-- What the job table needs to be the truth, webhooks with their deliveries, and storage that is freed again.

ALTER TABLE job ADD COLUMN app_id BIGINT REFERENCES app (id);
-- Jobs of a kind that share something slow, such as a receiver: none of them may take all the workers.
ALTER TABLE job ADD COLUMN lane TEXT NOT NULL DEFAULT '';
-- Counts heartbeats. Whoever sees it stand still for long enough takes the job over: no clocks are compared.
ALTER TABLE job ADD COLUMN beat BIGINT NOT NULL DEFAULT 0;
-- Attempts that came to nothing; handing a job back is none.
ALTER TABLE job ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN started_at TIMESTAMPTZ;
-- Who asked for it.
ALTER TABLE job ADD COLUMN principal_id BIGINT REFERENCES principal (id);
-- When it last changed, as a number that grows with commits: streams follow it.
ALTER TABLE job ADD COLUMN change BIGINT NOT NULL DEFAULT 0;
DROP INDEX job_due;
DROP INDEX job_by_lease;
ALTER TABLE job DROP COLUMN lease_until;
CREATE INDEX job_due ON job (state, kind, lane, priority, run_at, id);
CREATE INDEX job_by_change ON job (change, id);
CREATE INDEX job_by_project ON job (project_id, id);
CREATE INDEX job_by_end ON job (finished_at) WHERE finished_at IS NOT NULL;
-- Ids of transactions: what is below the oldest one in progress is complete.
CREATE FUNCTION job_change() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    NEW.change := CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT);
    RETURN NEW;
END;
$$;
CREATE TRIGGER job_inserted BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION job_change();
CREATE TRIGGER job_changed BEFORE UPDATE OF state, progress, run_at ON job
    FOR EACH ROW EXECUTE FUNCTION job_change();

DROP TABLE job_log;
CREATE TABLE job_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id BIGINT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_by_job ON job_log (job_id, id);

-- What a batch query found, a line of JSON each.
CREATE TABLE batch_result (
    job_id BIGINT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    app_id BIGINT,
    line TEXT NOT NULL,
    PRIMARY KEY (job_id, ordinal)
);

-- Nothing wrote these so far.
DROP TABLE webhook_delivery;
DROP TABLE webhook;

-- From here on there are also events of no app, which have no sequence.
ALTER TABLE event ALTER COLUMN app_id DROP NOT NULL;
ALTER TABLE event ALTER COLUMN seq DROP NOT NULL;
ALTER TABLE event ADD COLUMN project_id BIGINT REFERENCES project (id);
ALTER TABLE event ADD COLUMN trace_parent TEXT;
UPDATE event SET project_id = (SELECT a.project_id FROM app a WHERE a.id = event.app_id);
CREATE INDEX event_by_time ON event (created_at);

CREATE TABLE webhook (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id UUID NOT NULL UNIQUE,
    name TEXT COLLATE "C" NOT NULL,
    url TEXT NOT NULL,
    format TEXT NOT NULL CHECK (format IN ('standard', 'generic', 'slack', 'dingtalk', 'feishu')),
    -- Kinds, or '*'.
    events JSONB NOT NULL,
    -- Header → value, and the secrets that sign: both encrypted under the server's secret key.
    headers BYTEA,
    secrets BYTEA,
    enabled BOOLEAN NOT NULL,
    disabled_reason TEXT,
    -- Since when nothing was delivered though it was tried.
    failing_since TIMESTAMPTZ,
    failures INTEGER NOT NULL,
    -- It stands in the configuration, which is the only place to change it.
    declared BOOLEAN NOT NULL,
    project_id BIGINT REFERENCES project (id),
    app_id BIGINT REFERENCES app (id),
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE UNIQUE INDEX webhook_by_name ON webhook (COALESCE(project_id, 0), COALESCE(app_id, 0), name);

-- One event for one webhook. Its id is what receivers tell duplicates by.
CREATE TABLE webhook_delivery (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id UUID NOT NULL UNIQUE,
    webhook_seq BIGINT NOT NULL REFERENCES webhook (seq) ON DELETE CASCADE,
    -- Absent for test calls.
    event_id BIGINT REFERENCES event (id),
    kind TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
    attempts INTEGER NOT NULL,
    status INTEGER,
    error TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX webhook_delivery_by_hook ON webhook_delivery (webhook_seq, seq);
CREATE INDEX webhook_delivery_by_state ON webhook_delivery (webhook_seq, state, seq);
CREATE INDEX webhook_delivery_by_event ON webhook_delivery (event_id);
CREATE INDEX webhook_delivery_by_time ON webhook_delivery (created_at);

CREATE TABLE webhook_attempt (
    delivery_seq BIGINT NOT NULL REFERENCES webhook_delivery (seq) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    url TEXT NOT NULL,
    request TEXT NOT NULL,
    status INTEGER,
    latency_ms BIGINT NOT NULL,
    response TEXT,
    error TEXT,
    PRIMARY KEY (delivery_seq, attempt)
);

ALTER TABLE schedule ADD COLUMN last_job_id BIGINT;
-- Cron and time zone were changed by hand: defaults of a new release don't replace them.
ALTER TABLE schedule ADD COLUMN changed BOOLEAN NOT NULL DEFAULT FALSE;

-- When garbage collection claimed it; its bytes are removed some time after.
ALTER TABLE pack ADD COLUMN claimed_at TIMESTAMPTZ;
-- Stored bytes that versions need, as they were counted last; absent where something may have changed since.
ALTER TABLE pack ADD COLUMN live_bytes BIGINT;
CREATE INDEX pack_by_state ON pack (state, id);
CREATE INDEX version_by_deletion ON version (deleted_at, id) WHERE state = 'deleted';
CREATE INDEX version_label_by_value ON version_label (key, value);

-- When a version that was deleted came back: for retention it is as young as that.
ALTER TABLE version ADD COLUMN restored_at TIMESTAMPTZ;
-- It was quarantined, and is so again should it be deleted and come back.
ALTER TABLE version ADD COLUMN quarantined BOOLEAN NOT NULL DEFAULT FALSE;

-- That they are about to end has been announced.
ALTER TABLE api_token ADD COLUMN end_announced BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE service_account ADD COLUMN end_announced BOOLEAN NOT NULL DEFAULT FALSE;
