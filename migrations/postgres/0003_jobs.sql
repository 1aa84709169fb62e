-- What happens later, and who is told.

-- What happened to an app, numbered per app in the order of commits.
CREATE TABLE event (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_id BIGINT NOT NULL REFERENCES app (id),
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    payload JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    UNIQUE (app_id, seq)
);

-- The truth about background work; queues only carry ids.
CREATE TABLE job (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL,
    payload JSONB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'dead', 'cancelled')),
    priority SMALLINT NOT NULL,
    run_at TIMESTAMPTZ NOT NULL,
    -- Counts claims. Every effect of a job checks that this is still its own.
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    lease_until TIMESTAMPTZ,
    lease_owner TEXT,
    progress JSONB,
    result JSONB,
    error TEXT,
    -- At most one queued job has a given key.
    unique_key TEXT,
    project_id BIGINT REFERENCES project (id),
    trace_parent TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ
);
CREATE INDEX job_due ON job (state, kind, priority, run_at);
CREATE INDEX job_by_lease ON job (state, lease_until);
CREATE UNIQUE INDEX job_unique_key ON job (unique_key) WHERE state = 'queued';

CREATE TABLE job_log (
    job_id BIGINT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_by_job ON job_log (job_id, at);

CREATE TABLE schedule (
    name TEXT COLLATE "C" PRIMARY KEY,
    cron TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    last_tick TIMESTAMPTZ,
    updated_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE webhook (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    format TEXT NOT NULL,
    events JSONB NOT NULL,
    -- Headers and secrets, encrypted under the server's secret key.
    headers BYTEA,
    secrets BYTEA,
    enabled BOOLEAN NOT NULL,
    disabled_reason TEXT,
    project_id BIGINT REFERENCES project (id),
    app_id BIGINT REFERENCES app (id),
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE webhook_delivery (
    id UUID PRIMARY KEY,
    webhook_id UUID NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    event_id BIGINT NOT NULL REFERENCES event (id),
    job_id BIGINT REFERENCES job (id),
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,
    latency_ms BIGINT,
    response TEXT,
    error TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX webhook_delivery_by_hook ON webhook_delivery (webhook_id, created_at);
