//! Reading the whole log and its chain, and naming what does not fit.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use kkartifact_store::{AuditId, AuditKey, AuditRow, SealRow, Tx};

use super::chain::{Meaning, Place, Signer, link};
use super::seal::head;
use crate::error::ApiResult;
use crate::resources::Resources;

/// How many links are read at the same time.
const BATCH: u32 = 1000;
/// How many problems are named; more are counted.
const NAMED: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many rows were read.
    pub rows: u64,
    /// How many of them wait for being chained.
    pub waiting: u64,
    /// Where the signed end is, and when it was signed.
    pub sealed: Option<(i64, DateTime<Utc>)>,
    /// What does not fit, at most a hundred of it…
    pub problems: Vec<String>,
    /// … and how much there is in all.
    pub problem_count: u64,
}

impl Report {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < NAMED {
            self.problems.push(text);
        }
    }
}

/// Verifies the log.
pub async fn verify(resources: &Resources) -> ApiResult<Report> {
    let signer = Signer::derive(&resources.secret_key)?;
    let mut report = Report::default();
    // First, so that what is added meanwhile is behind it.
    let end = head(resources, &signer).await?;
    let mut tx = resources.db.snapshot().await?;
    let mut walk = Walk {
        place: first_place(&mut tx, &signer, &mut report).await?,
        end: end.as_ref().map(|(place, _)| place.clone()),
        key: resources.auth.audit_key(),
        signed_seen: false,
        report: &mut report,
    };
    walk.arrived();
    loop {
        let links = tx.seals(walk.place.seq, BATCH).await?;
        let (Some(first), Some(last)) = (links.first(), links.last()) else { break };
        let rows = tx.sealed_rows(first.seq - 1, last.seq).await?;
        let rows: HashMap<AuditId, AuditRow> = rows.into_iter().map(|row| (row.id, row)).collect();
        for link in links {
            walk.step(link, &rows);
        }
    }
    let reached = walk.place.seq;
    let has_links = reached > 0;
    match end {
        Some((place, head)) => {
            if reached < place.seq {
                let missing = place.seq - reached;
                report.problem(format!(
                    "the end is missing: {missing} rows after link {reached} were removed, {} is signed",
                    place.seq
                ));
            }
            report.sealed = Some((place.seq, head.at));
        }
        None if has_links => {
            report.problem("the signed end in the storage is missing, or not signed by this server".into());
        }
        None => {}
    }
    outside(&mut tx, resources.auth.audit_key(), has_links, &mut report).await?;
    for id in tx.copied_audit(100).await? {
        report.problem(format!("row {}: inserted, a copy of another one", id.0));
    }
    tx.commit().await?;
    Ok(report)
}

async fn first_place(tx: &mut Tx, signer: &Signer, report: &mut Report) -> ApiResult<Place> {
    let Some(start) = tx.audit_start().await? else { return Ok(Place::origin()) };
    let place = Place { seq: start.seq, hash: start.hash };
    if !signer.verify(&place, Meaning::Start, &start.signature) {
        report.problem(format!("the start at link {} is not signed by this server", place.seq));
    }
    Ok(place)
}

/// Going along the chain.
struct Walk<'a> {
    place: Place,
    end: Option<Place>,
    key: &'a AuditKey,
    /// Whether a row with a MAC has come: none without may follow.
    signed_seen: bool,
    report: &'a mut Report,
}

impl Walk<'_> {
    fn step(&mut self, seal: SealRow, rows: &HashMap<AuditId, AuditRow>) {
        let expected = self.place.seq + 1;
        if seal.seq != expected {
            self.report
                .problem(format!("links {expected} to {} were removed, with their rows", seal.seq - 1));
        }
        match rows.get(&seal.audit_id) {
            None => self.report.problem(format!("row {}: removed", seal.audit_id.0)),
            Some(row) => {
                self.report.rows += 1;
                let mut wrong = false;
                if row.is_unsigned() {
                    wrong = self.signed_seen;
                } else {
                    self.signed_seen = true;
                    wrong |= !row.is_authentic(self.key);
                }
                let chained = seal.seq == expected && link(&self.place.hash, seal.seq, row) == seal.hash;
                if wrong {
                    self.report.problem(format!(
                        "row {}: changed or inserted, the server did not write it so",
                        row.id.0
                    ));
                } else if !chained {
                    self.report.problem(format!("row {}: its link does not fit", row.id.0));
                }
            }
        }
        self.place = seal.into();
        self.arrived();
    }

    /// Compares with the signed end where it should be.
    fn arrived(&mut self) {
        let Some(end) = self.end.as_ref().filter(|end| end.seq == self.place.seq) else { return };
        if end.hash != self.place.hash {
            self.report.problem(format!("the chain up to link {} is not the one that was signed", end.seq));
        }
    }
}

/// Rows that are not in the chain: those that wait for it must be the server's.
async fn outside(tx: &mut Tx, key: &AuditKey, has_links: bool, report: &mut Report) -> ApiResult<()> {
    let mut after = AuditId(0);
    loop {
        let rows = tx.rows_outside_chain(after, BATCH).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.id;
        for row in &rows {
            report.rows += 1;
            if row.sealed {
                report.problem(format!("row {}: it is not in the chain and says that it is", row.id.0));
            } else if row.is_authentic(key) || (row.is_unsigned() && !has_links) {
                report.waiting += 1;
            } else {
                report.problem(format!("row {}: inserted, the server did not write it", row.id.0));
            }
        }
    }
}
