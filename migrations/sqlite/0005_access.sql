-- Credentials of every kind, and an audit log that shows tampering.

-- Counts what ends everything that was signed for a principal: a new secret, a new password.
ALTER TABLE principal ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;

-- From here on the owner is the person, service account or workload that answers for a token, and is disabled with
-- it; made_by is the credential that it was made with.
ALTER TABLE api_token ADD COLUMN made_by INTEGER REFERENCES principal (id);
ALTER TABLE api_token ADD COLUMN personal BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE api_token SET made_by = owner_id;
UPDATE api_token SET owner_id = NULL
    WHERE owner_id IN (SELECT id FROM principal WHERE kind = 'token');
CREATE INDEX api_token_by_owner ON api_token (owner_id);
CREATE INDEX api_token_by_maker ON api_token (made_by);

-- A temporary password opens nothing but its change, and ends.
ALTER TABLE user_account ADD COLUMN password_temporary_until TEXT;
-- As the provider named them at the last login.
ALTER TABLE user_account ADD COLUMN oidc_groups TEXT NOT NULL DEFAULT '[]';

-- Of one subject in one scope there is one binding.
DELETE FROM role_binding WHERE id NOT IN (
    SELECT MIN(id) FROM role_binding GROUP BY principal_id, oidc_group, project_id, app_id, permissions);
CREATE UNIQUE INDEX role_binding_once ON role_binding
    (COALESCE(principal_id, 0), COALESCE(oidc_group, ''), COALESCE(project_id, 0), COALESCE(app_id, 0));

DROP TABLE session;
CREATE TABLE session (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    principal_id INTEGER NOT NULL REFERENCES principal (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT,
    address TEXT,
    user_agent TEXT
);
CREATE INDEX session_by_principal ON session (principal_id, created_at);
CREATE INDEX session_by_end ON session (expires_at);

DROP TABLE trust_policy;
-- Which tokens of which issuer may be exchanged for the permissions of the principal.
CREATE TABLE trust_policy (
    principal_id INTEGER PRIMARY KEY REFERENCES principal (id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    issuer TEXT NOT NULL,
    audience TEXT NOT NULL,
    -- Claim → pattern.
    claims TEXT NOT NULL,
    max_minutes INTEGER NOT NULL
);
CREATE INDEX trust_policy_by_issuer ON trust_policy (issuer);

DROP TABLE signing_key;
CREATE TABLE signing_key (
    id TEXT PRIMARY KEY,
    -- Both in PKCS #1 or PKCS #8 DER; the private one encrypted under the server's secret key.
    public_key BLOB NOT NULL,
    private_key BLOB NOT NULL,
    created_at TEXT NOT NULL,
    -- When everything that it signed has ended; absent for the one that signs.
    verifies_until TEXT
);

-- A MAC under the server's secret key over a row and its nonce: who can write to the database can't write rows.
-- Rows from before have none, and are taken as they are by the first seal only.
ALTER TABLE audit ADD COLUMN nonce BLOB;
ALTER TABLE audit ADD COLUMN mac BLOB;
ALTER TABLE audit ADD COLUMN sealed BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX audit_unsealed ON audit (id) WHERE NOT sealed;
DROP INDEX audit_by_project;
CREATE INDEX audit_by_project ON audit (project, id);
CREATE INDEX audit_by_actor ON audit (actor_name, id);
CREATE INDEX audit_by_action ON audit (action, id);

DROP TABLE audit_seal;
-- The hash chain, in the order of sealing: ids are given before commits.
CREATE TABLE audit_seal (
    seq INTEGER PRIMARY KEY,
    audit_id INTEGER NOT NULL UNIQUE,
    hash BLOB NOT NULL
);
DROP TABLE audit_checkpoint;
-- Where the chain begins after retention has removed rows: signed, one row.
CREATE TABLE audit_start (
    seq INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    signature BLOB NOT NULL,
    created_at TEXT NOT NULL
);
