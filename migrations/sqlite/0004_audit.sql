-- Who did what, and which host runs what.

-- One row per privileged action, refusal, push and pull, committed with what it tells. Names instead of
-- references: a row outlives what it is about.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    actor_id INTEGER,
    actor_kind TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    -- How many times, for aggregated refusals.
    times INTEGER NOT NULL,
    project TEXT,
    app TEXT,
    version TEXT,
    agent_id TEXT,
    host TEXT,
    address TEXT,
    request_id TEXT,
    detail TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (at, id);
CREATE INDEX audit_by_project ON audit (project, at, id);

-- The hash chain over audit rows, sealed afterwards, and its signed checkpoints.
CREATE TABLE audit_seal (
    audit_id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL
);
CREATE TABLE audit_checkpoint (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    audit_id INTEGER NOT NULL,
    hash BLOB NOT NULL,
    signature BLOB NOT NULL,
    created_at TEXT NOT NULL
);

CREATE TABLE host (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    last_seen_at TEXT NOT NULL
);

-- What a host runs where, as its last report said.
CREATE TABLE deployment (
    host_id INTEGER NOT NULL REFERENCES host (id),
    app_id INTEGER NOT NULL REFERENCES app (id),
    target TEXT NOT NULL,
    version_id INTEGER NOT NULL REFERENCES version (id),
    previous_version_id INTEGER REFERENCES version (id),
    applied_at TEXT NOT NULL,
    PRIMARY KEY (host_id, app_id, target)
);
CREATE INDEX deployment_by_version ON deployment (version_id);
