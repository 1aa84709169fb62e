//! What a person sees while it works: bars on a terminal, lines in a pipe, nothing if asked so.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars that go away when they are done.
    Bars,
    /// One line at the start of each step.
    Lines,
    /// Nothing but notes on what went wrong.
    Notes,
    /// Nothing.
    Quiet,
}

/// One step that is shown while it lives.
#[derive(Debug, Clone)]
pub struct Step(Option<ProgressBar>);

impl Progress {
    /// Bars if standard error is a terminal, else lines.
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Bars } else { Self::Lines }
    }

    /// Begins a step whose size is not known.
    pub fn step(self, what: &str) -> Step {
        self.begin(what, None)
    }

    /// Begins a step of so many bytes.
    pub fn bytes(self, what: &str, total: u64) -> Step {
        self.begin(what, Some(total))
    }

    fn begin(self, what: &str, total: Option<u64>) -> Step {
        match self {
            Self::Notes | Self::Quiet => Step(None),
            Self::Lines => {
                let size = total.map(|bytes| format!(" {}", kkartifact_model::size::ByteSize(bytes)));
                crate::output::note(&format!("{what}{} …", size.unwrap_or_default()));
                Step(None)
            }
            Self::Bars => {
                let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
                let template = match total {
                    Some(_) => "{msg:10} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
                    None => "{spinner} {msg:10} {human_pos}",
                };
                bar.set_style(
                    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar.set_message(what.to_owned());
                bar.enable_steady_tick(Duration::from_millis(100));
                Step(Some(bar))
            }
        }
    }
}

impl Step {
    /// Some more is done: bytes, or items where the size is not known.
    pub fn add(&self, amount: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(amount);
        }
    }

    /// Done.
    pub fn done(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
