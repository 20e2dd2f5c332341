//! Integration tests.

mod config;
mod data;
mod decide;
mod generate;
mod hub;
mod loading;
mod ops;
mod ops_linear;
mod optim;
mod parity;
mod quant;
mod show;
mod tidy;
mod train;
