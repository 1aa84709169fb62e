-- What happens later, and who is told.

-- What happened to an app, numbered per app in the order of commits.
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id INTEGER NOT NULL REFERENCES app (id),
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (app_id, seq)
);

-- The truth about background work; queues only carry ids.
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'dead', 'cancelled')),
    priority INTEGER NOT NULL,
    run_at TEXT NOT NULL,
    -- Counts claims. Every effect of a job checks that this is still its own.
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    lease_until TEXT,
    lease_owner TEXT,
    progress TEXT,
    result TEXT,
    error TEXT,
    -- At most one queued job has a given key.
    unique_key TEXT,
    project_id INTEGER REFERENCES project (id),
    trace_parent TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    finished_at TEXT
);
CREATE INDEX job_due ON job (state, kind, priority, run_at);
CREATE INDEX job_by_lease ON job (state, lease_until);
CREATE UNIQUE INDEX job_unique_key ON job (unique_key) WHERE state = 'queued';

CREATE TABLE job_log (
    job_id INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    at TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX job_log_by_job ON job_log (job_id, at);

CREATE TABLE schedule (
    name TEXT PRIMARY KEY,
    cron TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    last_tick TEXT,
    updated_at TEXT NOT NULL
);

CREATE TABLE webhook (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    format TEXT NOT NULL,
    events TEXT NOT NULL,
    -- Headers and secrets, encrypted under the server's secret key.
    headers BLOB,
    secrets BLOB,
    enabled BOOLEAN NOT NULL,
    disabled_reason TEXT,
    project_id INTEGER REFERENCES project (id),
    app_id INTEGER REFERENCES app (id),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);

CREATE TABLE webhook_delivery (
    id BLOB PRIMARY KEY,
    webhook_id BLOB NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    event_id INTEGER NOT NULL REFERENCES event (id),
    job_id INTEGER REFERENCES job (id),
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,
    latency_ms INTEGER,
    response TEXT,
    error TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
CREATE INDEX webhook_delivery_by_hook ON webhook_delivery (webhook_id, created_at);
