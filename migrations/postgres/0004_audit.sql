-- Who did what, and which host runs what.

-- One row per privileged action, refusal, push and pull, committed with what it tells. Names instead of
-- references: a row outlives what it is about.
CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL,
    actor_id BIGINT,
    actor_kind TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    -- How many times, for aggregated refusals.
    times INTEGER NOT NULL,
    project TEXT COLLATE "C",
    app TEXT COLLATE "C",
    version TEXT COLLATE "C",
    agent_id TEXT,
    host TEXT,
    address TEXT,
    request_id TEXT,
    detail JSONB NOT NULL
);
CREATE INDEX audit_by_time ON audit (at, id);
CREATE INDEX audit_by_project ON audit (project, at, id);

-- The hash chain over audit rows, sealed afterwards, and its signed checkpoints.
CREATE TABLE audit_seal (
    audit_id BIGINT PRIMARY KEY,
    hash BYTEA NOT NULL
);
CREATE TABLE audit_checkpoint (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    audit_id BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE host (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id TEXT COLLATE "C" NOT NULL UNIQUE,
    name TEXT NOT NULL,
    last_seen_at TIMESTAMPTZ NOT NULL
);

-- What a host runs where, as its last report said.
CREATE TABLE deployment (
    host_id BIGINT NOT NULL REFERENCES host (id),
    app_id BIGINT NOT NULL REFERENCES app (id),
    target TEXT NOT NULL,
    version_id BIGINT NOT NULL REFERENCES version (id),
    previous_version_id BIGINT REFERENCES version (id),
    applied_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (host_id, app_id, target)
);
CREATE INDEX deployment_by_version ON deployment (version_id);
