//! Killing the server, at a place or at any moment, and looking at what it has left behind.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kkartifact_model::failpoint;
use kkartifact_testkit::process::ServerProcess;

use crate::world::World;

/// In so many rounds the server dies at every place of a collection.
pub(crate) const ROUNDS: u64 = 9;
/// A round takes about as long: the moment of a kill is in it.
const MOMENTS: usize = 3000;

/// How the server dies in a round.
pub(crate) enum Death {
    /// At a place, when it comes to it for this time.
    At(&'static str, usize),
    /// After so much time.
    After(Duration),
}

impl Death {
    /// Two of three rounds are for the places of a collection, in their order.
    pub(crate) fn of(world: &World, round: u64) -> Self {
        let (cycle, step) = (round / 3, round % 3);
        match step {
            2 if cycle.is_multiple_of(2) => {
                Self::At(failpoint::PUSH[world.pick(&[20, round], failpoint::PUSH.len())], 1)
            }
            2 => Self::After(Duration::from_millis(world.pick(&[21, round], MOMENTS) as u64)),
            _ => {
                let place = usize::try_from(cycle * 2 + step).unwrap() % failpoint::COLLECT.len();
                let later = if round < ROUNDS { 0 } else { world.pick(&[22, round], 3) };
                Self::At(failpoint::COLLECT[place], 1 + later)
            }
        }
    }

    /// What arms the place.
    pub(crate) fn failpoint(&self) -> Option<String> {
        match self {
            Self::At(place, times) => Some(format!("{place}:{times}")),
            Self::After(_) => None,
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(place, 1) => write!(f, "{place}"),
            Self::At(place, times) => write!(f, "{place}, time {times}"),
            Self::After(time) => write!(f, "after {time:?}"),
        }
    }
}

/// Sees the server die, verifies what it has left, and starts it again. If everything is `over` before it has come to
/// its place, it is killed all the same.
pub(crate) fn kill(
    world: &World,
    server: &mut ServerProcess,
    death: &Death,
    over: &AtomicBool,
    make_old: bool,
) {
    let reached = match death {
        Death::At(..) => world.until("the server to die", || match server.exit_status() {
            Some(_) => Some(true),
            None => over.load(Ordering::SeqCst).then_some(false),
        }),
        Death::After(time) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "the moment is what the test is about; any is right"
            )]
            std::thread::sleep(*time);
            false
        }
    };
    if reached {
        server.wait_until_killed();
    } else {
        server.kill();
    }
    match death {
        Death::At(place, _) if reached => *world.tally().kills.entry((*place).to_owned()).or_default() += 1,
        Death::At(..) => world.tally().missed.push(death.to_string()),
        Death::After(_) => *world.tally().kills.entry("any moment".to_owned()).or_default() += 1,
    }
    // Nobody changes anything now.
    server.verify();
    if make_old {
        world.handle.block_on(server.execute(&world.storage.ageing()));
    }
    server.restart(None);
}
