//! What an operator does beside the running server.

use std::process::ExitCode;

use kkartifact::verify;
use kkartifact_model::api::user::Role;
use kkartifact_model::size::ByteSize;
use kkartifact_service::{ApiError, ApiResult, Resources, audit, bootstrap, password};
use kkartifact_store::{Actor, NewAudit, Outcome, Tx, UserRow};
use serde_json::json;

use crate::cli::{Admin, say};

/// Runs a command.
pub(crate) async fn run(command: Admin, resources: &Resources) -> ApiResult<ExitCode> {
    match command {
        Admin::Bootstrap => {
            let secret = bootstrap::again(resources).await?;
            say("Spend this one-time secret for a token or a person who may do everything:");
            say(&secret);
        }
        Admin::ResetPassword { login, admin } => reset_password(resources, &login, admin).await?,
        Admin::Unlock { login } => {
            let mut tx = resources.db.begin().await?;
            let user = find(&mut tx, &login).await?;
            tx.unlock(user.principal_id).await?;
            note(resources, &mut tx, "user.unlock", json!({ "login": login })).await?;
            tx.commit().await?;
            say(&format!("{login} may log in again."));
        }
        Admin::RotateKeys => {
            let now = resources.clock.now();
            let key = resources.auth.keys().rotate(&resources.db, &actor(resources), now).await?;
            say(&format!("Key {} signs from now on.", key.id));
        }
        Admin::Verify => return verify_content(resources).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn actor(resources: &Resources) -> Actor {
    Actor::system("command line", resources.auth.audit_key())
}

async fn note(resources: &Resources, tx: &mut Tx, action: &str, detail: serde_json::Value) -> ApiResult<()> {
    let row = NewAudit { action, detail, ..NewAudit::default() };
    Ok(tx.audit(&actor(resources), Outcome::Done, &row, resources.clock.now()).await?)
}

async fn find(tx: &mut Tx, login: &str) -> ApiResult<UserRow> {
    let unknown = || ApiError::internal(format!("there is nobody with the login {login}"));
    tx.find_user(login).await?.ok_or_else(unknown)
}

async fn reset_password(resources: &Resources, login: &str, admin: bool) -> ApiResult<()> {
    let now = resources.clock.now();
    let mut tx = resources.db.read().await?;
    let user = find(&mut tx, login).await?;
    tx.commit().await?;
    if user.password_hash.is_none() {
        return Err(ApiError::internal(format!("{login} has no password; the OIDC provider does the login")));
    }
    let (made, end) = password::temporary(now)?;
    let hash = resources.auth.hash_secret(&made).await?;
    let mut tx = resources.db.begin().await?;
    let user = find(&mut tx, login).await?;
    tx.set_password(user.principal_id, &hash, Some(end), now).await?;
    tx.revoke_sessions(user.principal_id, None, now).await?;
    tx.next_generation(user.principal_id).await?;
    if admin {
        tx.set_role(user.principal_id, Role::Admin).await?;
        tx.set_disabled(user.principal_id, false, now).await?;
    }
    let detail = json!({ "login": login, "made_admin": admin });
    note(resources, &mut tx, "user.reset_password", detail).await?;
    tx.commit().await?;
    say(&format!("A temporary password for {login}, to be changed at the next login within a day:"));
    say(&made);
    Ok(())
}

async fn verify_content(resources: &Resources) -> ApiResult<ExitCode> {
    let report = verify::verify_all(resources).await?;
    report.problems.iter().for_each(|problem| say(problem));
    let read = ByteSize(report.bytes);
    let (versions, files, problems) = (report.versions, report.files, report.problems.len());
    say(&format!("{versions} versions, {files} files, {read} read; {problems} problems"));
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Verifies the audit log; 1 if anything does not fit.
pub(crate) async fn verify_audit(resources: &Resources) -> ApiResult<ExitCode> {
    let report = audit::verify(resources).await?;
    report.problems.iter().for_each(|problem| say(problem));
    let sealed = report.sealed.map_or_else(
        || "not sealed yet".to_owned(),
        |(seq, at)| format!("sealed up to {seq} at {}", at.format("%Y-%m-%dT%H:%M:%SZ")),
    );
    let waiting =
        if report.waiting > 0 { format!(", {} wait for it", report.waiting) } else { String::new() };
    say(&format!("checked {} rows, {sealed}{waiting}; {} problems", report.rows, report.problem_count));
    Ok(if report.problem_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
