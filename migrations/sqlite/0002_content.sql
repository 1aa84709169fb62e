-- Versions and their bytes.

CREATE TABLE storage_element (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('directory', 's3', 'remote')),
    mode TEXT NOT NULL CHECK (mode IN ('edit', 'rw', 'ro', 'ar')),
    config TEXT NOT NULL,
    created_at TEXT NOT NULL
);

-- One object in storage that holds many chunks. A row exists only once the object is durable.
CREATE TABLE pack (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE,
    element_id INTEGER NOT NULL REFERENCES storage_element (id),
    project_id INTEGER NOT NULL REFERENCES project (id),
    -- The app that it was written for. Other apps of the project may have chunks in it.
    app_id INTEGER NOT NULL REFERENCES app (id),
    size INTEGER NOT NULL,
    chunk_count INTEGER NOT NULL,
    -- 'claimed' by garbage collection: nothing new may rely on it.
    state TEXT NOT NULL CHECK (state IN ('live', 'claimed')),
    created_at TEXT NOT NULL
);
CREATE INDEX pack_by_project ON pack (project_id);

-- Where a chunk's bytes are, for each app that has sent them. Digest first: it scatters, and the same bytes of
-- another app of the project are found beside.
CREATE TABLE chunk (
    digest BLOB NOT NULL,
    app_id INTEGER NOT NULL REFERENCES app (id),
    pack_id INTEGER NOT NULL REFERENCES pack (id),
    -- The chunk's place in the pack's footer.
    ordinal INTEGER NOT NULL,
    pack_offset INTEGER NOT NULL,
    stored_len INTEGER NOT NULL,
    len INTEGER NOT NULL,
    -- SHA-256 of the chunk, where it came as a whole file: such a file is verified without reading it.
    sha256 BLOB,
    PRIMARY KEY (digest, app_id)
) WITHOUT ROWID;
CREATE INDEX chunk_by_pack ON chunk (pack_id);

-- Files of several chunks whose content has been found to have its SHA-256: list_digest is BLAKE3 over the ids.
CREATE TABLE verified_file (
    list_digest BLOB PRIMARY KEY,
    sha256 BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE version (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id INTEGER NOT NULL REFERENCES app (id),
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('published', 'quarantined', 'deleted', 'purged')),
    -- Counts the changes of state; markers in storage carry it.
    revision INTEGER NOT NULL,
    tree_digest BLOB NOT NULL,
    manifest_digest BLOB NOT NULL,
    manifest_root BLOB NOT NULL,
    meta_digest BLOB NOT NULL,
    entry_count INTEGER NOT NULL,
    file_count INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    git_commit TEXT,
    build_time TEXT,
    builder TEXT,
    notes TEXT NOT NULL,
    created_at TEXT NOT NULL,
    created_by INTEGER NOT NULL REFERENCES principal (id),
    created_by_name TEXT NOT NULL,
    deleted_at TEXT,
    legal_hold BOOLEAN NOT NULL,
    pinned BOOLEAN NOT NULL,
    UNIQUE (app_id, name)
);
CREATE INDEX version_by_age ON version (app_id, created_at, id);
CREATE INDEX version_by_tree ON version (app_id, tree_digest);
CREATE INDEX version_by_commit ON version (app_id, git_commit);

CREATE TABLE version_label (
    version_id INTEGER NOT NULL REFERENCES version (id),
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (version_id, key)
);

-- What of a pack a version needs: garbage collection and compaction read this instead of manifests.
CREATE TABLE version_pack (
    version_id INTEGER NOT NULL REFERENCES version (id),
    pack_id INTEGER NOT NULL REFERENCES pack (id),
    -- One bit per ordinal, lowest first.
    chunks BLOB NOT NULL,
    PRIMARY KEY (version_id, pack_id)
);
CREATE INDEX version_pack_by_pack ON version_pack (pack_id);

CREATE TABLE channel (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id INTEGER NOT NULL REFERENCES app (id),
    name TEXT NOT NULL,
    version_id INTEGER NOT NULL REFERENCES version (id),
    previous_version_id INTEGER REFERENCES version (id),
    revision INTEGER NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (app_id, name)
);
CREATE INDEX channel_by_version ON channel (version_id);

CREATE TABLE channel_move (
    channel_id INTEGER NOT NULL REFERENCES channel (id),
    revision INTEGER NOT NULL,
    version_id INTEGER NOT NULL REFERENCES version (id),
    previous_version_id INTEGER REFERENCES version (id),
    action TEXT NOT NULL CHECK (action IN ('promote', 'rollback')),
    actor_id INTEGER NOT NULL REFERENCES principal (id),
    actor_name TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (channel_id, revision)
);

-- A draft: private to who opened it, from init to finish.
CREATE TABLE upload (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    app_id INTEGER NOT NULL REFERENCES app (id),
    version_name TEXT NOT NULL,
    principal_id INTEGER NOT NULL REFERENCES principal (id),
    principal_name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'finished', 'aborted', 'expired')),
    tree_digest BLOB,
    base_version_id INTEGER REFERENCES version (id),
    manifest_root BLOB,
    git_commit TEXT,
    build_time TEXT,
    builder TEXT,
    agent_id TEXT,
    agent_host TEXT,
    version_id INTEGER REFERENCES version (id),
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
);
CREATE INDEX upload_by_app ON upload (app_id, state, seq);
CREATE INDEX upload_by_expiry ON upload (state, expires_at);

-- Files that are put one by one: what was announced, and the manifest record once the content is there.
CREATE TABLE upload_file (
    upload_id BLOB NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    expected_sha256 BLOB,
    expected_size INTEGER,
    record BLOB,
    PRIMARY KEY (upload_id, path)
);

-- Packs that an open upload relies on: told "not missing", or written by it.
CREATE TABLE upload_pack (
    upload_id BLOB NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    pack_id INTEGER NOT NULL REFERENCES pack (id),
    PRIMARY KEY (upload_id, pack_id)
);
CREATE INDEX upload_pack_by_pack ON upload_pack (pack_id);

-- Where a path or a digest occurs. Derived from manifests by a job; can be rebuilt.
CREATE TABLE version_path (
    version_id INTEGER NOT NULL REFERENCES version (id),
    path TEXT NOT NULL,
    sha256 BLOB,
    PRIMARY KEY (version_id, path)
) WITHOUT ROWID;
CREATE INDEX version_path_by_digest ON version_path (sha256);

-- Statements about a version: signatures, provenance, bills of materials.
CREATE TABLE attestation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version_id INTEGER NOT NULL REFERENCES version (id),
    kind TEXT NOT NULL,
    document BLOB NOT NULL,
    key_id TEXT,
    created_at TEXT NOT NULL,
    created_by INTEGER NOT NULL REFERENCES principal (id)
);
CREATE INDEX attestation_by_version ON attestation (version_id);

-- A loose stored object with attributes and a retention policy.
CREATE TABLE file (
    id BLOB PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES project (id),
    name TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    size INTEGER NOT NULL,
    chunk_list BLOB NOT NULL,
    metadata TEXT NOT NULL,
    description TEXT NOT NULL,
    policy TEXT NOT NULL CHECK (policy IN ('temporary', 'permanent')),
    expires_at TEXT,
    state TEXT NOT NULL CHECK (state IN ('active', 'missing', 'deleted', 'purged')),
    created_at TEXT NOT NULL,
    created_by INTEGER NOT NULL REFERENCES principal (id),
    deleted_at TEXT
);
CREATE INDEX file_by_age ON file (project_id, created_at, id);
CREATE TABLE file_tag (
    file_id BLOB NOT NULL REFERENCES file (id),
    tag TEXT NOT NULL,
    PRIMARY KEY (file_id, tag)
);

-- A published version never changes, whoever asks the database to.
CREATE TRIGGER version_is_immutable BEFORE UPDATE ON version
WHEN OLD.app_id <> NEW.app_id OR OLD.name <> NEW.name OR OLD.tree_digest <> NEW.tree_digest
    OR OLD.created_at <> NEW.created_at OR OLD.created_by <> NEW.created_by
    OR OLD.git_commit IS NOT NEW.git_commit OR OLD.build_time IS NOT NEW.build_time
    OR OLD.builder IS NOT NEW.builder OR NEW.revision < OLD.revision
    OR OLD.entry_count <> NEW.entry_count OR OLD.file_count <> NEW.file_count OR OLD.bytes <> NEW.bytes
    -- Content that was collected may come back: the same tree, perhaps with other times and chunks.
    OR (OLD.state <> 'purged' AND (OLD.manifest_digest <> NEW.manifest_digest
        OR OLD.manifest_root <> NEW.manifest_root OR OLD.meta_digest <> NEW.meta_digest))
BEGIN
    SELECT RAISE(ABORT, 'a published version is immutable');
END;
CREATE TRIGGER version_is_never_deleted BEFORE DELETE ON version
BEGIN
    SELECT RAISE(ABORT, 'a version is tombstoned, never deleted');
END;
