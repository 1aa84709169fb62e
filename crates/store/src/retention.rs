//! Retention: which versions may go.
//!
//! Never those that a channel points to or pointed to before, that a host runs, that are pinned or held, or that an
//! open upload is told by. Quarantined versions are left alone, and do not count as kept.

use chrono::{DateTime, TimeDelta, Utc};
use kkartifact_model::api::retention::{Expendable, Retention, SETTING};
use kkartifact_model::{AppName, ProjectName, VersionName};

use crate::error::StoreError;
use crate::id::{AppId, VersionId};
use crate::page::Cursor;
use crate::tx::{Tx, fetch_all, fetch_one, statements};

/// What is younger stays: somebody may be about to point a channel to it.
const YOUNG: TimeDelta = TimeDelta::hours(1);

/// Which versions of an app may go, unless something relies on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionRule {
    /// So many of the newest published ones stay.
    pub keep: u32,
    /// Those stay that were published at this time or later.
    pub before: DateTime<Utc>,
}

impl RetentionRule {
    /// What a setting says at `now`; `None` if it keeps all.
    pub fn of(retention: &Retention, now: DateTime<Utc>) -> Option<Self> {
        let age = TimeDelta::days(retention.keep_days.into()).max(YOUNG);
        let before = now.checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC);
        retention.keep.map(|keep| Self { keep, before })
    }

    /// A number alone, whatever their age.
    pub fn newest(keep: u32) -> Self {
        Self { keep, before: DateTime::<Utc>::MAX_UTC }
    }

    /// The time in a form that both databases can compare.
    fn cutoff(&self) -> DateTime<Utc> {
        Cursor { at: self.before, id: 0 }.time()
    }
}

/// A version that may go.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ExpendableRow {
    /// Row id.
    pub id: VersionId,
    /// Whose.
    pub app_id: AppId,
    #[sqlx(try_from = "String")]
    project: ProjectName,
    #[sqlx(try_from = "String")]
    app: AppName,
    /// Its name.
    #[sqlx(try_from = "String")]
    pub name: VersionName,
    created_at: DateTime<Utc>,
}

impl ExpendableRow {
    /// Its place in the order of app, age and id.
    pub fn place(&self) -> ExpendablePlace {
        ExpendablePlace { app: self.app_id, version: Cursor { at: self.created_at, id: self.id.0 } }
    }
}

impl From<ExpendableRow> for Expendable {
    fn from(row: ExpendableRow) -> Self {
        Self { project: row.project, app: row.app, version: row.name, created_at: row.created_at }
    }
}

/// A place among the versions of all apps, in the order of app, age and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpendablePlace {
    app: AppId,
    version: Cursor,
}

impl ExpendablePlace {
    /// Before everything.
    pub const START: Self = Self::before(AppId(1));

    const fn before(app: AppId) -> Self {
        Self { app, version: Cursor { at: DateTime::UNIX_EPOCH, id: 0 } }
    }

    /// Behind everything of an app.
    pub const fn behind(app: AppId) -> Self {
        Self::before(AppId(app.0.saturating_add(1)))
    }

    /// The app before the one that it is in: where a page of apps starts that has everything behind the place.
    pub fn app_before(&self) -> AppId {
        AppId(self.app.0.saturating_sub(1))
    }

    /// The place as callers pass it back.
    pub fn encode(self) -> String {
        format!("{}.{}", self.app.0, self.version.encode())
    }

    /// Reads a place that a caller passed back.
    pub fn decode(text: &str) -> Option<Self> {
        let (app, version) = text.split_once('.')?;
        Some(Self { app: AppId(app.parse().ok()?), version: Cursor::decode(version)? })
    }
}

// The published versions of the apps behind $1 up to $2 that are not among the newest $3 of their app, and were
// published, or have come back, before $4. The names of apps are looked up for few of them only, so they are not joined here.
macro_rules! old {
    () => {
        "FROM (SELECT v.id, v.app_id, v.name, v.created_at, COALESCE(v.restored_at, v.created_at) AS since, (v.pinned OR v.legal_hold) AS held,
                ROW_NUMBER() OVER (PARTITION BY v.app_id ORDER BY v.created_at DESC, v.id DESC) AS place
            FROM version v WHERE v.app_id > $1 AND v.app_id <= $2 AND v.state = 'published') r
        WHERE r.place > $3 AND r.since < $4
            AND NOT EXISTS (SELECT 1 FROM app g JOIN project h ON h.id = g.project_id
                WHERE g.id = r.app_id AND (g.state = 'deleted' OR h.state = 'deleted')) "
    };
}

// Nothing relies on them.
macro_rules! unprotected {
    () => {
        "NOT r.held
            AND NOT EXISTS (SELECT 1 FROM channel c
                WHERE c.app_id = r.app_id AND (c.version_id = r.id OR c.previous_version_id = r.id))
            AND NOT EXISTS (SELECT 1 FROM deployment d WHERE d.version_id = r.id)
            AND NOT EXISTS (SELECT 1 FROM upload u
                WHERE u.app_id = r.app_id AND u.state = 'open' AND u.base_version_id = r.id)"
    };
}

statements! {
    LAST_APP = "SELECT MAX(n.id) FROM (SELECT id FROM app WHERE id > $1 ORDER BY id LIMIT $2) n";
    EXPENDABLE = concat!("SELECT e.id, e.app_id, p.name AS project, a.name AS app, e.name, e.created_at
        FROM (SELECT r.id, r.app_id, r.name, r.created_at ", old!(), "AND ", unprotected!(),
        " AND (r.app_id, r.created_at, r.id) > ($5, $6, $7) ORDER BY r.app_id, r.created_at, r.id LIMIT $8) e
        JOIN app a ON a.id = e.app_id JOIN project p ON p.id = a.project_id
        ORDER BY e.app_id, e.created_at, e.id");
    APPS = concat!("SELECT DISTINCT r.app_id ", old!(), "AND ", unprotected!(), " ORDER BY r.app_id");
    PROTECTED = concat!("SELECT r.name ", old!(), "AND NOT (", unprotected!(),
        ") ORDER BY r.created_at, r.id LIMIT $5");
}

impl Tx {
    /// The rule for every app, as it is set.
    pub async fn retention(&mut self) -> Result<Retention, StoreError> {
        match self.setting(SETTING).await? {
            None => Ok(Retention::default()),
            Some(value) => {
                serde_json::from_value(value).map_err(|error| StoreError::Corrupt(error.to_string()))
            }
        }
    }

    /// The last one of the next `count` apps behind an id, by id and in whatever state; `None` if none is left.
    pub async fn last_of_apps(&mut self, after: AppId, count: u32) -> Result<Option<AppId>, StoreError> {
        let (last,) = fetch_one!(self, (Option<AppId>,), LAST_APP, after, i64::from(count))?;
        Ok(last)
    }

    /// What may go of the apps up to `until`, behind a place: by app, oldest first. Not of deleted apps. The work grows
    /// with the versions of the apps from the place on, so callers take few apps at a time.
    pub async fn expendable(
        &mut self,
        rule: &RetentionRule,
        after: &ExpendablePlace,
        until: AppId,
        limit: u32,
    ) -> Result<Vec<ExpendableRow>, StoreError> {
        fetch_all!(
            self,
            ExpendableRow,
            EXPENDABLE,
            after.app_before(),
            until,
            i64::from(rule.keep),
            rule.cutoff(),
            after.app,
            after.version.time(),
            after.version.id,
            i64::from(limit)
        )
    }

    /// What may go of one app, oldest first. To be deleted in a transaction that has locked the app before it asked.
    pub async fn expendable_of(
        &mut self,
        rule: &RetentionRule,
        app: AppId,
        limit: u32,
    ) -> Result<Vec<ExpendableRow>, StoreError> {
        self.expendable(rule, &ExpendablePlace::before(app), app, limit).await
    }

    /// The apps behind `after` up to `until` of which something may go, by id. Not deleted ones.
    pub async fn apps_with_expendable(
        &mut self,
        rule: &RetentionRule,
        after: AppId,
        until: AppId,
    ) -> Result<Vec<AppId>, StoreError> {
        let rows = fetch_all!(self, (AppId,), APPS, after, until, i64::from(rule.keep), rule.cutoff())?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }

    /// What would go of one app if nothing relied on it, oldest first.
    pub async fn protected_of(
        &mut self,
        rule: &RetentionRule,
        app: AppId,
        limit: u32,
    ) -> Result<Vec<VersionName>, StoreError> {
        let before = ExpendablePlace::before(app).app_before();
        let (keep, limit) = (i64::from(rule.keep), i64::from(limit));
        let rows = fetch_all!(self, (String,), PROTECTED, before, app, keep, rule.cutoff(), limit)?;
        let names = rows.into_iter().map(|(name,)| name.parse());
        names
            .collect::<Result<_, _>>()
            .map_err(|error: kkartifact_model::name::InvalidName| StoreError::Corrupt(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn an_hour_and_the_days_of_the_setting_protect_what_is_young() {
        let rule = |keep, keep_days| {
            RetentionRule::of(&Retention { keep, keep_days, ..Retention::default() }, now())
        };
        assert_eq!(rule(None, 3), None);
        assert_eq!(rule(Some(2), 0).unwrap().before, now() - TimeDelta::hours(1));
        assert_eq!(rule(Some(2), 3).unwrap().before, now() - TimeDelta::days(3));
        // Older than anything: nothing goes.
        assert_eq!(rule(Some(2), u32::MAX).unwrap().cutoff(), DateTime::UNIX_EPOCH);
    }

    #[test]
    fn places_round_trip_and_nonsense_is_refused() {
        let version = Cursor { at: now(), id: 42 };
        for place in [
            ExpendablePlace::START,
            ExpendablePlace::behind(AppId(7)),
            ExpendablePlace { app: AppId(7), version },
        ] {
            assert_eq!(ExpendablePlace::decode(&place.encode()).map(|back| back.app), Some(place.app));
        }
        let place = ExpendablePlace { app: AppId(7), version };
        assert_eq!(ExpendablePlace::decode(&place.encode()), Some(place));
        assert_eq!((place.app_before(), ExpendablePlace::START.app_before()), (AppId(6), AppId(0)));
        for bad in ["", "7", ".", "x.y", &version.encode(), "7.x"] {
            assert_eq!(ExpendablePlace::decode(bad), None, "{bad}");
        }
    }
}
