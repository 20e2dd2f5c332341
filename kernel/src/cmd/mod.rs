//! The commands: a file for each, with its arguments and what it does.

pub mod install;
pub mod run;
pub mod uninstall;
