//! Which versions have been pushed, and which of them are there.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::builds::{Build, FILES};

/// Where a version is, as far as its deleters know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is there, unless retention has taken it in this round.
    Live,
    /// Somebody is deleting it, or bringing it back.
    Taken,
    /// It was deleted.
    Gone,
}

/// A version that was pushed.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// Its app's place in [`crate::builds::APPS`].
    pub(crate) app: usize,
    pub(crate) name: String,
    pub(crate) build: Build,
    state: State,
    /// How often somebody has begun to delete it.
    pub(crate) deletions: u64,
}

/// All of them, the oldest of an app first.
#[derive(Debug, Default)]
pub(crate) struct Model(Mutex<Vec<Version>>);

impl Model {
    fn versions(&self) -> MutexGuard<'_, Vec<Version>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a version that was pushed.
    pub(crate) fn add(&self, app: usize, name: &str, build: &Build) {
        let (name, build) = (name.to_owned(), build.clone());
        self.versions().push(Version { app, name, build, state: State::Live, deletions: 0 });
    }

    /// The versions that are there.
    pub(crate) fn live(&self) -> Vec<Version> {
        self.versions().iter().filter(|version| version.state == State::Live).cloned().collect()
    }

    /// Takes one of those that are there, but none of the newest `keep` of an app. `pick` chooses among so many.
    pub(crate) fn take(&self, keep: usize, pick: impl FnOnce(usize) -> usize) -> Option<Version> {
        let mut versions = self.versions();
        let live = |app: usize| move |version: &&Version| version.app == app && version.state == State::Live;
        let old = |at: &usize| {
            let app = versions[*at].app;
            versions[*at].state == State::Live && versions[at + 1..].iter().filter(live(app)).count() >= keep
        };
        let old: Vec<_> = (0..versions.len()).filter(old).collect();
        let taken = &mut versions[*old.get(pick(old.len()))?];
        taken.state = State::Taken;
        taken.deletions += 1;
        Some(taken.clone())
    }

    /// Says what has become of a version that was taken.
    pub(crate) fn put(&self, version: &Version, state: State) {
        self.with(version, |found| found.state = state);
    }

    /// How often somebody has begun to delete a version.
    pub(crate) fn deletions(&self, version: &Version) -> u64 {
        self.with(version, |found| found.deletions)
    }

    fn with<T>(&self, version: &Version, work: impl FnOnce(&mut Version) -> T) -> T {
        let mut versions = self.versions();
        let same = |found: &&mut Version| (found.app, &found.name) == (version.app, &version.name);
        work(versions.iter_mut().find(same).unwrap())
    }

    /// Compares with what the server lists of an app while nothing goes on. Retention may have taken any but the
    /// newest; what was deleted is deleted.
    pub(crate) fn settle(&self, app: usize, listed: &BTreeSet<String>) {
        assert!(app != FILES, "nothing is known of these");
        let mut versions = self.versions();
        let mut has_newest = true;
        for version in versions.iter_mut().filter(|version| version.app == app) {
            let is_there = listed.contains(&version.name);
            assert!(version.state != State::Taken, "somebody still has {}", version.name);
            assert!(!is_there || version.state == State::Live, "{} was deleted and is there", version.name);
            version.state = if is_there { State::Live } else { State::Gone };
            has_newest = is_there;
        }
        let known =
            versions.iter().filter(|version| version.app == app && version.state == State::Live).count();
        assert_eq!(known, listed.len(), "{listed:?}: not all of these were pushed");
        assert!(has_newest, "the newest version of app {app} was taken");
    }
}
