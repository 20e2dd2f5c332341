//! The commands: a file for each, with its arguments and what it does.

pub mod execute;
pub mod install;
pub mod prebuild;
pub mod run;
pub mod uninstall;
