//! The kernel as a frontend sees it: a process behind five sockets.

mod cells;
mod frontend;
mod hardship;
mod install;
mod interrupt;
mod prebuild;
mod sources;
