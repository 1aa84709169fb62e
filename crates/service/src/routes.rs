//! The route table, and mounting handlers on it.
//!
//! A handler can only be mounted under the name of a route of the table, and the table says what a caller needs.
//! A service whose handlers and routes don't match does not start.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware::from_fn_with_state;
use axum::routing::MethodFilter;
use kkartifact_model::Permission;
use kkartifact_model::size::ByteSize;
use serde::Deserialize;

use crate::error::{ApiError, ApiResult};
use crate::http::gate;
use crate::resources::Resources;

/// The services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Identity and metadata.
    Api,
    /// Bytes.
    Transfer,
    /// Background work.
    Jobs,
    /// Routes that each service has.
    Every,
}

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// A valid credential.
    SignedIn,
    /// A permission somewhere.
    Needs(Permission, Scope),
}

/// Where the permission is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// On the project or app that the path names.
    Path,
    /// On what the body names: checked where the body is read.
    Body,
    /// On everything.
    Global,
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name in code, logs and metrics.
    pub name: String,
    /// The method.
    pub method: http::Method,
    /// The path with parameters in braces.
    pub path: String,
    /// Who answers.
    pub service: Service,
    /// What a caller needs.
    pub access: Access,
    /// The most bytes of a body; `None` where the handler counts.
    pub body: Option<u64>,
    /// How long the whole request may take, or a stream may be silent.
    pub timeout: Duration,
}

/// All routes.
#[derive(Debug)]
pub struct RouteTable(Vec<Route>);

#[derive(Deserialize)]
struct File {
    route: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    method: String,
    path: String,
    service: Service,
    access: String,
    scope: Option<Scope>,
    body: String,
    timeout: u64,
}

impl RouteTable {
    /// The table that this program was built with.
    pub fn get() -> ApiResult<&'static Self> {
        static TABLE: LazyLock<Result<RouteTable, String>> =
            LazyLock::new(|| RouteTable::parse(include_str!("../../../gateway/routes.toml")));
        TABLE.as_ref().map_err(|error| ApiError::internal(format!("gateway/routes.toml: {error}")))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut names = BTreeSet::new();
        let routes = file.route.into_iter().map(|row| {
            if !names.insert(row.name.clone()) {
                return Err(format!("{} is there twice", row.name));
            }
            route(row)
        });
        routes.collect::<Result<_, _>>().map(Self)
    }

    /// All routes.
    pub fn routes(&self) -> &[Route] {
        &self.0
    }

    fn find(&self, name: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.name == name)
    }
}

fn route(row: Row) -> Result<Route, String> {
    let wrong = |what: &str| format!("{}: {what}", row.name);
    let access = match (row.access.as_str(), row.scope) {
        ("public", None) => Access::Public,
        ("signed-in", None) => Access::SignedIn,
        (permission, Some(scope)) => {
            Access::Needs(permission.parse().map_err(|_| wrong("unknown access"))?, scope)
        }
        _ => return Err(wrong("access and scope don't go together")),
    };
    if access_needs_path(access) && !row.path.contains("{project}") {
        return Err(wrong("scope is path, but the path names no project"));
    }
    let body = match row.body.as_str() {
        "stream" => None,
        size => Some(size.parse::<ByteSize>().map_err(|error| wrong(&error.to_string()))?.0),
    };
    Ok(Route {
        method: row.method.parse().map_err(|_| wrong("unknown method"))?,
        timeout: Duration::from_secs(row.timeout),
        name: row.name,
        path: row.path,
        service: row.service,
        access,
        body,
    })
}

fn access_needs_path(access: Access) -> bool {
    matches!(access, Access::Needs(_, Scope::Path))
}

/// A service's handlers, mounted one by one.
pub struct Routes {
    table: &'static RouteTable,
    service: Service,
    resources: Resources,
    router: Router<Resources>,
    mounted: BTreeSet<&'static str>,
    mistakes: Vec<String>,
}

impl Routes {
    /// Begins with none.
    pub fn new(service: Service, resources: &Resources) -> ApiResult<Self> {
        Ok(Self {
            table: RouteTable::get()?,
            service,
            resources: resources.clone(),
            router: Router::new(),
            mounted: BTreeSet::new(),
            mistakes: Vec::new(),
        })
    }

    /// Mounts the handler of a route. Before it runs, the caller has what the table says.
    #[must_use]
    pub fn on<H, T>(mut self, name: &'static str, handler: H) -> Self
    where
        H: Handler<T, Resources>,
        T: 'static,
    {
        let Some(route) = self.table.find(name).filter(|route| route.service == self.service) else {
            self.mistakes.push(format!("{name} is not a route of this service"));
            return self;
        };
        let Ok(filter) = MethodFilter::try_from(route.method.clone()) else {
            self.mistakes.push(format!("{name} has a method that can't be routed"));
            return self;
        };
        let limit = route.body.and_then(|bytes| usize::try_from(bytes).ok());
        let methods = axum::routing::on(filter, handler)
            .layer(limit.map_or_else(DefaultBodyLimit::disable, DefaultBodyLimit::max))
            .layer(from_fn_with_state((self.resources.clone(), route), gate::admit));
        self.router = self.router.route(&route.path, methods);
        self.mounted.insert(name);
        self
    }

    /// The router, if every route of the service has its handler.
    pub fn finish(mut self) -> ApiResult<Router> {
        let routes = self.table.routes().iter().filter(|route| route.service == self.service);
        let missing = routes.filter(|route| !self.mounted.contains(route.name.as_str()));
        self.mistakes.extend(missing.map(|route| format!("{} has no handler", route.name)));
        if self.mistakes.is_empty() {
            Ok(self.router.with_state(self.resources))
        } else {
            Err(ApiError::internal(self.mistakes.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(access: &str, path: &str) -> Result<RouteTable, String> {
        RouteTable::parse(&format!(
            "[[route]]\nname = 'x'\nmethod = 'GET'\npath = '{path}'\nservice = 'api'\n{access}\nbody = '0'\ntimeout = 1"
        ))
    }

    #[test]
    fn the_table_reads_and_its_routes_differ() {
        let table = RouteTable::get().unwrap();
        let places: BTreeSet<_> = table.routes().iter().map(|r| (r.method.as_str(), &r.path)).collect();
        assert_eq!(places.len(), table.routes().len());
    }

    #[test]
    fn a_route_that_does_not_say_what_it_needs_is_refused() {
        assert!(table("access = 'public'", "/x").is_ok());
        assert!(table("access = 'push'\nscope = 'path'", "/{project}").is_ok());
        for wrong in
            ["", "access = 'push'", "access = 'public'\nscope = 'path'", "access = 'root'\nscope = 'path'"]
        {
            assert!(table(wrong, "/{project}").is_err(), "{wrong}");
        }
        assert!(table("access = 'push'\nscope = 'path'", "/x").is_err());
    }
}
