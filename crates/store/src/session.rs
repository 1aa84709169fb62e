//! Sessions of people.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::page::Page;
use kkartifact_model::api::user::Session;
use uuid::Uuid;

use crate::error::StoreError;
use crate::id::PrincipalId;
use crate::page::{Cursor, PageQuery};
use crate::tx::{Tx, execute, fetch_all, fetch_one, fetch_optional, statements};

/// A session's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SessionRow {
    /// Row number; 0 of one that is about to begin.
    pub seq: i64,
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub principal_id: PrincipalId,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends however much it is used.
    pub expires_at: DateTime<Utc>,
    /// When it was ended.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Where the login came from.
    pub address: Option<String>,
    /// The browser, by its own word.
    pub user_agent: Option<String>,
}

impl SessionRow {
    /// Whether it may be used at `now`, when it ends after so long without a request.
    pub fn is_valid(&self, now: DateTime<Utc>, idle: TimeDelta) -> bool {
        self.revoked_at.is_none() && now < self.expires_at && now < self.last_seen_at + idle
    }

    /// The session as lists show it.
    pub fn into_session(self, current: Option<Uuid>) -> Session {
        Session {
            current: current == Some(self.id),
            id: self.id,
            created_at: self.created_at,
            last_seen_at: self.last_seen_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
            address: self.address,
            user_agent: self.user_agent,
        }
    }
}

statements! {
    INSERT = "INSERT INTO session (id, principal_id, created_at, last_seen_at, expires_at, address, user_agent)
        VALUES ($1, $2, $3, $3, $4, $5, $6)";
    FIND = "SELECT seq, id, principal_id, created_at, last_seen_at, expires_at, revoked_at, address, user_agent
        FROM session WHERE id = $1";
    LIST = "SELECT seq, id, principal_id, created_at, last_seen_at, expires_at, revoked_at, address, user_agent
        FROM session WHERE principal_id = $1 AND (created_at, seq) < ($2, $3) ORDER BY created_at DESC, seq DESC LIMIT $4 OFFSET $5";
    COUNT = "SELECT COUNT(*) FROM session WHERE principal_id = $1";
    SEEN = "UPDATE session SET last_seen_at = $2 WHERE id = $1 AND last_seen_at < $2";
    REVOKE = "UPDATE session SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
    REVOKE_ALL = "UPDATE session SET revoked_at = $2
        WHERE principal_id = $1 AND revoked_at IS NULL AND id <> $3";
    // Those that ended long ago tell nobody anything any more; audit rows do.
    SWEEP = "DELETE FROM session WHERE expires_at < $1";
}

impl Tx {
    /// Begins a session.
    pub async fn insert_session(&mut self, session: &SessionRow) -> Result<(), StoreError> {
        let (address, agent) = (session.address.as_deref(), session.user_agent.as_deref());
        let (id, principal) = (session.id, session.principal_id);
        execute!(self, INSERT, id, principal, session.created_at, session.expires_at, address, agent)
            .map(drop)
    }

    /// The session of this id, ended or not.
    pub async fn find_session(&mut self, id: Uuid) -> Result<Option<SessionRow>, StoreError> {
        fetch_optional!(self, SessionRow, FIND, id)
    }

    /// A person's sessions, newest first.
    pub async fn list_sessions(
        &mut self,
        of: PrincipalId,
        current: Option<Uuid>,
        page: PageQuery,
    ) -> Result<Page<Session>, StoreError> {
        let (at, seq) = (page.after.time(), page.after.id);
        let rows = fetch_all!(self, SessionRow, LIST, of, at, seq, page.fetch(), page.skip())?;
        let (total,) = fetch_one!(self, (i64,), COUNT, of)?;
        let place = |row: &SessionRow| Cursor { at: row.created_at, id: row.seq };
        Ok(page.page(rows, total, place, |row| row.into_session(current)))
    }

    /// Remembers that a session was used.
    pub async fn session_seen(&mut self, id: Uuid, now: DateTime<Utc>) -> Result<(), StoreError> {
        execute!(self, SEEN, id, now).map(drop)
    }

    /// Ends a session; whether it had not ended.
    pub async fn revoke_session(&mut self, id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError> {
        execute!(self, REVOKE, id, now).map(|rows| rows == 1)
    }

    /// Ends all sessions of a person but one; how many.
    pub async fn revoke_sessions(
        &mut self,
        of: PrincipalId,
        but: Option<Uuid>,
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        execute!(self, REVOKE_ALL, of, now, but.unwrap_or_default())
    }

    /// Removes sessions that ended before a time; how many.
    pub async fn sweep_sessions(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        execute!(self, SWEEP, before)
    }
}
