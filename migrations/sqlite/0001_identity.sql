-- Who may do what where.

-- Everybody and everything that can act: API tokens, people, service accounts, federated workloads.
CREATE TABLE principal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('token', 'user', 'service_account', 'workload')),
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    disabled_at TEXT
);

CREATE TABLE project (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'archived', 'deleted')),
    quota_bytes INTEGER,
    created_at TEXT NOT NULL,
    deleted_at TEXT
);
CREATE INDEX project_by_age ON project (created_at, id);

CREATE TABLE app (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL REFERENCES project (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'archived', 'deleted')),
    -- The sequence of the app's last event.
    event_seq INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    deleted_at TEXT,
    UNIQUE (project_id, name)
);
CREATE INDEX app_by_age ON app (project_id, created_at, id);

-- A principal's (or an OIDC group's) permissions in a scope: everything, one project or one app.
CREATE TABLE role_binding (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    principal_id INTEGER REFERENCES principal (id) ON DELETE CASCADE,
    oidc_group TEXT,
    permissions INTEGER NOT NULL,
    project_id INTEGER REFERENCES project (id),
    app_id INTEGER REFERENCES app (id),
    created_at TEXT NOT NULL,
    CHECK ((principal_id IS NULL) <> (oidc_group IS NULL)),
    CHECK (app_id IS NULL OR project_id IS NOT NULL)
);
CREATE INDEX role_binding_by_principal ON role_binding (principal_id);
CREATE INDEX role_binding_by_group ON role_binding (oidc_group);

CREATE TABLE api_token (
    principal_id INTEGER PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    -- The public part of the token.
    token_id TEXT NOT NULL UNIQUE,
    -- bcrypt of the secret part.
    secret_hash TEXT NOT NULL,
    -- Who made it; a disabled owner's tokens don't work.
    owner_id INTEGER REFERENCES principal (id),
    expires_at TEXT,
    revoked_at TEXT
);

CREATE TABLE user_account (
    principal_id INTEGER PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    login TEXT NOT NULL UNIQUE,
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('admin', 'readonly', 'none')),
    oidc_issuer TEXT,
    oidc_subject TEXT,
    failed_logins INTEGER NOT NULL,
    locked_until TEXT,
    password_changed_at TEXT,
    UNIQUE (oidc_issuer, oidc_subject)
);

CREATE TABLE service_account (
    principal_id INTEGER PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    client_id TEXT NOT NULL UNIQUE,
    secret_hash TEXT NOT NULL,
    secret_expires_at TEXT
);

-- Which tokens of which issuer may be exchanged for which permissions.
CREATE TABLE trust_policy (
    principal_id INTEGER PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    issuer TEXT NOT NULL,
    audience TEXT NOT NULL,
    claims TEXT NOT NULL
);

CREATE TABLE session (
    id BLOB PRIMARY KEY,
    principal_id INTEGER NOT NULL REFERENCES principal (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT,
    address TEXT,
    user_agent TEXT
);
CREATE INDEX session_by_principal ON session (principal_id);

CREATE TABLE signing_key (
    id TEXT PRIMARY KEY,
    algorithm TEXT NOT NULL,
    public_key BLOB NOT NULL,
    -- Encrypted under the server's secret key.
    private_key BLOB NOT NULL,
    created_at TEXT NOT NULL,
    signs_until TEXT,
    verifies_until TEXT
);

CREATE TABLE setting (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL
);
