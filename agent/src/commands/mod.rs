//! What the agent does besides pushing and pulling, one module a command.

pub mod adopt;
pub mod diff;
pub mod doctor;
pub mod init;
pub mod login;
pub mod status;
pub mod verify;
pub mod versions;
