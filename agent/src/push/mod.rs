//! Pushing: scan the source, tell the server, send what it lacks, publish.

mod cache;
mod git;
pub mod scan;
mod send;

use std::fmt;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kkartifact_model::api::upload::{Missing, UploadInit, UploadOpened};
use kkartifact_model::api::version::{BuildInfo, Version};
use kkartifact_model::manifest::RefSet;
use kkartifact_model::size::ByteSize;
use kkartifact_model::time::Clock;
use kkartifact_model::{AppName, Code, ProjectName, TreeDigest, VersionName, VersionRef};
use serde::Serialize;
use uuid::Uuid;

use crate::client::Patience;
use crate::context::Agent;
use crate::error::{AgentError, Kind, Result};
use crate::manifest_file::ManifestFile;
use crate::tree::{IgnoreRules, open_root};
pub use cache::PushCache;

/// What to push.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The build.
    pub path: PathBuf,
    /// What the version is called; the git commit or the content's digest if absent.
    pub version: Option<VersionName>,
    /// Switches the guards off.
    pub force: bool,
    /// Only look.
    pub dry_run: bool,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushReport {
    /// Whose.
    pub project: ProjectName,
    /// Whose.
    pub app: AppName,
    /// The version.
    pub version: VersionName,
    /// What makes the content the same.
    pub tree_digest: TreeDigest,
    /// `published`, `unchanged` (it was there already) or `dry-run`.
    pub outcome: Outcome,
    /// Regular files of the version.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Chunks that the server lacked.
    pub chunks_sent: u64,
    /// Bytes of request bodies that went over the network.
    pub bytes_sent: u64,
    /// Bytes of answers.
    pub bytes_received: u64,
    /// How long it took.
    pub milliseconds: u64,
}

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The version is there now.
    Published,
    /// The version was there with this content.
    Unchanged,
    /// Nothing was done.
    DryRun,
}

impl fmt::Display for PushReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.outcome {
            Outcome::Published => "✓ pushed",
            Outcome::Unchanged => "✓ unchanged:",
            Outcome::DryRun => "would push",
        };
        writeln!(f, "{what} {}/{} {}", self.project, self.app, self.version)?;
        writeln!(
            f,
            "  content  {} files, {}, tree {}",
            self.files,
            ByteSize(self.bytes),
            short(&self.tree_digest)
        )?;
        let (sent, took) = (ByteSize(self.bytes_sent), seconds(self.milliseconds));
        write!(
            f,
            "  moved    {sent} sent in {} chunks, {} received, {took}",
            self.chunks_sent,
            ByteSize(self.bytes_received)
        )
    }
}

/// The first digits of a digest: enough for people.
pub(crate) fn short(digest: &TreeDigest) -> String {
    digest.to_string()[..12].to_owned()
}

/// Milliseconds as people read them.
pub(crate) fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}

/// Pushes a build.
pub async fn push(agent: &Agent, options: &PushOptions) -> Result<PushReport> {
    let started = Instant::now();
    let (project, app) = agent.config.app()?;
    let ignore = IgnoreRules::new(&agent.config.ignore)?;
    let cache = PushCache::open(&agent.config, &project, &app, &options.path)?;
    let root = open_root(&options.path)?;

    let step = agent.progress.step("scanning");
    let scanned = {
        let (cache, root, step) =
            (cache.clone(), root.try_clone().map_err(AgentError::io("opening"))?, step.clone());
        let job = move || scan::scan(root.as_fd(), &ignore, &cache.scan_files(), &step);
        tokio::task::spawn_blocking(job).await.map_err(|error| crashed(&error))??
    };
    step.done();
    let manifest = scanned.manifest;
    warn(agent, &scanned.problems);
    let tree = manifest.root().tree_digest;
    let build = git::describe(&options.path);
    let version = name_version(options, &build, &tree)?;
    if !options.force {
        guard(agent, &cache, &project, &app, &manifest).await?;
    }
    let mut report = PushReport {
        project: project.clone(),
        app: app.clone(),
        version: version.clone(),
        tree_digest: tree,
        outcome: Outcome::DryRun,
        files: manifest.root().files,
        bytes: manifest.root().bytes,
        chunks_sent: 0,
        bytes_sent: 0,
        bytes_received: 0,
        milliseconds: 0,
    };
    if !options.dry_run {
        let init = UploadInit {
            project,
            app,
            version,
            tree_digest: Some(tree),
            base: cache.base(),
            files: None,
            build: BuildInfo {
                build_time: Some(Clock::System.now()),
                builder: Some(agent.info.host.clone()),
                ..build.info
            },
            agent: Some(agent.info.clone()),
        };
        let pushing = Pushing { agent, cache: &cache, manifest: &manifest, root: &root };
        let (outcome, published, chunks) = pushing.run(&init).await?;
        report.outcome = outcome;
        report.chunks_sent = chunks;
        cache.keep(&manifest, &published)?;
    }
    (report.bytes_sent, report.bytes_received) = agent.client.moved();
    report.milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// A worker's thread panicked.
pub(crate) fn crashed(error: &tokio::task::JoinError) -> AgentError {
    AgentError::new(Kind::Failed, format!("a worker crashed: {error}"))
}

fn warn(agent: &Agent, problems: &crate::tree::Problems) {
    if let Some(first) = problems.collisions.first() {
        let count = problems.collisions.len();
        agent.say(&format!("note: {count} names differ from a sibling by case or Unicode form only, such as {first:?}; hosts whose file system ignores that will refuse this version"));
    }
    if problems.special_bits > 0 {
        agent.say(&format!(
            "note: set-user-id, set-group-id and sticky bits are not carried ({} files)",
            problems.special_bits
        ));
    }
}

/// The version's name: as told, else the commit of a clean work tree, else the content's digest.
fn name_version(options: &PushOptions, build: &git::Build, tree: &TreeDigest) -> Result<VersionName> {
    if let Some(version) = &options.version {
        return Ok(version.clone());
    }
    let name = match (&build.info.git_commit, build.clean) {
        (Some(commit), true) => commit.chars().take(12).collect(),
        _ => tree.to_string()[..16].to_owned(),
    };
    name.parse().map_err(|error: kkartifact_model::name::InvalidName| AgentError::usage(error.to_string()))
}

/// Refuses what looks like a mistake: an empty source, or one that has shrunk too much.
async fn guard(
    agent: &Agent,
    cache: &PushCache,
    project: &ProjectName,
    app: &AppName,
    manifest: &ManifestFile,
) -> Result<()> {
    let root = manifest.root();
    let refuse = |message: String| {
        AgentError::new(Kind::Guard, message)
            .hint("check the build; if it is meant to be so, push with --force")
    };
    if root.files == 0 {
        return Err(refuse("the source has no files; hosts that pull it would lose everything".into()));
    }
    let before = match cache.manifest() {
        Some(before) => Some((before.root().files, before.root().bytes)),
        None => match agent.client.version(project, app, &VersionRef::Latest).await {
            Ok(version) => Some((version.file_count, version.bytes)),
            Err(error) if error.kind == Kind::NotFound => None,
            Err(error) => return Err(error),
        },
    };
    let Some((files, bytes)) = before else { return Ok(()) };
    let kept = u64::from(100 - agent.config.max_shrink);
    let shrunk = |now: u64, before: u64| now.saturating_mul(100) < before.saturating_mul(kept);
    if shrunk(root.files, files) || shrunk(root.bytes, bytes) {
        return Err(refuse(format!(
            "the source has shrunk from {files} files ({}) to {} ({}), by more than max_shrink = {} %",
            ByteSize(bytes),
            root.files,
            ByteSize(root.bytes),
            agent.config.max_shrink
        )));
    }
    Ok(())
}

/// How often content is sent anew before giving up.
const ROUNDS: u32 = 4;

struct Pushing<'a> {
    agent: &'a Agent,
    cache: &'a PushCache,
    manifest: &'a ManifestFile,
    root: &'a std::os::fd::OwnedFd,
}

impl Pushing<'_> {
    async fn run(&self, init: &UploadInit) -> Result<(Outcome, Version, u64)> {
        let client = &self.agent.client;
        let (upload, base) = match client.upload_init(init).await? {
            UploadOpened::Published { version } => return Ok((Outcome::Unchanged, *version, 0)),
            UploadOpened::Open { upload_id, base, .. } => (upload_id, base),
        };
        let step = self.agent.progress.step("manifest");
        let stream = self.cache.write_stream(self.manifest, base)?;
        let mut missing = self.decode(&client.upload_manifest(upload, &stream).await?)?;
        step.done();
        let mut chunks = 0;
        for _ in 0..ROUNDS {
            chunks += self.send(upload, &mut missing).await?;
            match client.upload_finish(upload).await {
                Ok(version) => return Ok((Outcome::Published, version, chunks)),
                Err(error) if error.code == Some(Code::UploadIncomplete) => {
                    missing = self.decode(&client.upload_missing(upload).await?)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(AgentError::new(Kind::Failed, "the server keeps missing content that was sent; see its log"))
    }

    /// Sends what is missing until the server has it; how many chunks were sent.
    async fn send(&self, upload: Uuid, missing: &mut RefSet) -> Result<u64> {
        let mut patience = Patience::default();
        let mut sent = 0;
        while !missing.is_empty() {
            let count = missing.count();
            let plan = send::plan(self.manifest, missing, self.agent.config.concurrency)?;
            match send::send(self.agent, self.manifest, self.root, upload, plan).await {
                Ok(chunks) => return Ok(sent + chunks),
                Err(attempt) => patience.wait(attempt).await?,
            }
            *missing = self.decode(&self.agent.client.upload_missing(upload).await?)?;
            let arrived = count.saturating_sub(missing.count());
            sent += arrived;
            if arrived > 0 {
                patience.renew();
            }
        }
        Ok(sent)
    }

    /// The set of what is missing, which must be one of the manifest's references.
    fn decode(&self, missing: &Missing) -> Result<RefSet> {
        let strange =
            || AgentError::new(Kind::Failed, "the server's list of missing content is not readable");
        let refs = self.manifest.root().refs();
        let bytes = STANDARD.decode(&missing.set).ok().filter(|_| missing.refs == refs);
        RefSet::decode(&bytes.ok_or_else(strange)?, refs).map_err(|_| strange())
    }
}
