-- Who may do what where.

-- Everybody and everything that can act: API tokens, people, service accounts, federated workloads.
CREATE TABLE principal (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('token', 'user', 'service_account', 'workload')),
    name TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    disabled_at TIMESTAMPTZ
);

CREATE TABLE project (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    description TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'archived', 'deleted')),
    quota_bytes BIGINT,
    created_at TIMESTAMPTZ NOT NULL,
    deleted_at TIMESTAMPTZ
);
CREATE INDEX project_by_age ON project (created_at, id);

CREATE TABLE app (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id BIGINT NOT NULL REFERENCES project (id),
    name TEXT COLLATE "C" NOT NULL,
    description TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'archived', 'deleted')),
    -- The sequence of the app's last event.
    event_seq BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    deleted_at TIMESTAMPTZ,
    UNIQUE (project_id, name)
);
CREATE INDEX app_by_age ON app (project_id, created_at, id);

-- A principal's (or an OIDC group's) permissions in a scope: everything, one project or one app.
CREATE TABLE role_binding (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    principal_id BIGINT REFERENCES principal (id) ON DELETE CASCADE,
    oidc_group TEXT,
    permissions SMALLINT NOT NULL,
    project_id BIGINT REFERENCES project (id),
    app_id BIGINT REFERENCES app (id),
    created_at TIMESTAMPTZ NOT NULL,
    CHECK ((principal_id IS NULL) <> (oidc_group IS NULL)),
    CHECK (app_id IS NULL OR project_id IS NOT NULL)
);
CREATE INDEX role_binding_by_principal ON role_binding (principal_id);
CREATE INDEX role_binding_by_group ON role_binding (oidc_group);

CREATE TABLE api_token (
    principal_id BIGINT PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    -- The public part of the token.
    token_id TEXT COLLATE "C" NOT NULL UNIQUE,
    -- bcrypt of the secret part.
    secret_hash TEXT NOT NULL,
    -- Who made it; a disabled owner's tokens don't work.
    owner_id BIGINT REFERENCES principal (id),
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ
);

CREATE TABLE user_account (
    principal_id BIGINT PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    login TEXT COLLATE "C" NOT NULL UNIQUE,
    password_hash TEXT,
    role TEXT NOT NULL CHECK (role IN ('admin', 'readonly', 'none')),
    oidc_issuer TEXT,
    oidc_subject TEXT,
    failed_logins INTEGER NOT NULL,
    locked_until TIMESTAMPTZ,
    password_changed_at TIMESTAMPTZ,
    UNIQUE (oidc_issuer, oidc_subject)
);

CREATE TABLE service_account (
    principal_id BIGINT PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    client_id TEXT COLLATE "C" NOT NULL UNIQUE,
    secret_hash TEXT NOT NULL,
    secret_expires_at TIMESTAMPTZ
);

-- Which tokens of which issuer may be exchanged for which permissions.
CREATE TABLE trust_policy (
    principal_id BIGINT PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    issuer TEXT NOT NULL,
    audience TEXT NOT NULL,
    claims JSONB NOT NULL
);

CREATE TABLE session (
    id UUID PRIMARY KEY,
    principal_id BIGINT NOT NULL REFERENCES principal (id) ON DELETE CASCADE,
    created_at TIMESTAMPTZ NOT NULL,
    last_seen_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    revoked_at TIMESTAMPTZ,
    address TEXT,
    user_agent TEXT
);
CREATE INDEX session_by_principal ON session (principal_id);

CREATE TABLE signing_key (
    id TEXT COLLATE "C" PRIMARY KEY,
    algorithm TEXT NOT NULL,
    public_key BYTEA NOT NULL,
    -- Encrypted under the server's secret key.
    private_key BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    signs_until TIMESTAMPTZ,
    verifies_until TIMESTAMPTZ
);

CREATE TABLE setting (
    key TEXT COLLATE "C" PRIMARY KEY,
    value JSONB NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
