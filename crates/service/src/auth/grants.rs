//! What a caller may do where: bindings, narrowed by what stands above them.

use std::sync::Arc;

use kkartifact_model::api::access::Grant;
use kkartifact_model::{Permission, Permissions};
use kkartifact_store::{AppId, BindingRow, ProjectId, Reach};

/// What a permission is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Everything.
    Global,
    /// A project as a whole.
    Project(ProjectId),
    /// An app.
    App(ProjectId, AppId),
}

impl Object {
    /// What a scope's rows name.
    pub fn of(project: Option<ProjectId>, app: Option<AppId>) -> Self {
        match (project, app) {
            (None, _) => Self::Global,
            (Some(project), None) => Self::Project(project),
            (Some(project), Some(app)) => Self::App(project, app),
        }
    }
}

/// The bindings that hold for a caller.
#[derive(Debug, Clone, Default)]
pub struct Grants(Arc<[BindingRow]>);

impl Grants {
    /// These bindings.
    pub fn new(bindings: Vec<BindingRow>) -> Self {
        Self(bindings.into_iter().filter(|binding| !binding.permissions().is_empty()).collect())
    }

    /// No more than these permissions.
    #[must_use]
    pub fn narrowed(&self, most: Permissions) -> Self {
        Self::new(self.0.iter().map(|b| b.with(b.permissions().intersection(most))).collect())
    }

    /// No more than another may: what both have, where both have it.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        for mine in self.0.iter() {
            for theirs in other.0.iter() {
                let permissions = mine.permissions().intersection(theirs.permissions());
                if theirs.covers(mine) {
                    both.push(mine.with(permissions));
                } else if mine.covers(theirs) {
                    both.push(theirs.with(permissions));
                }
            }
        }
        Self::new(both)
    }

    /// What may be done with an object, by all bindings that cover it.
    pub fn permissions(&self, object: Object) -> Permissions {
        let covers = |binding: &&BindingRow| match (binding.project_id, binding.app_id, object) {
            (None, _, _) => true,
            (Some(p), None, Object::Project(project) | Object::App(project, _)) => p == project,
            (Some(p), Some(a), Object::App(project, app)) => (p, a) == (project, app),
            // A part does not cover the whole.
            (Some(_), _, _) => false,
        };
        self.0.iter().filter(covers).fold(Permissions::default(), |all, b| all.union(b.permissions()))
    }

    /// Whether a project may be known to exist: any binding in it is enough.
    pub fn sees_project(&self, project: ProjectId) -> bool {
        self.0.iter().any(|b| b.project_id.is_none_or(|p| p == project))
    }

    /// Where a permission holds.
    pub fn reach(&self, permission: Permission) -> Reach {
        let mut reach = Reach::default();
        for binding in self.0.iter().filter(|b| b.permissions().contains(permission)) {
            match (binding.project_id, binding.app_id) {
                (None, _) => reach.everything = true,
                (Some(project), None) => reach.projects.push(project.0),
                (Some(project), Some(app)) => {
                    reach.apps.push(app.0);
                    reach.around.push(project.0);
                }
            }
        }
        reach
    }

    /// As callers see it.
    pub fn describe(&self) -> Vec<Grant> {
        self.0.iter().map(BindingRow::grant).collect()
    }

    /// Everything that is held anywhere.
    pub fn anywhere(&self) -> Permissions {
        self.0.iter().fold(Permissions::default(), |all, b| all.union(b.permissions()))
    }
}
