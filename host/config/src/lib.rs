//! The configuration file: TOML text in, a checked [`skep_core::FleetSpec`] out.
//!
//! Every problem of a file is reported at once, each with path, line, column,
//! a caret under the place and, where one is known, a hint. What comes out is
//! complete: defaults filled in, paths resolved, variables and secrets read,
//! references between tables checked. Keys that skep knows of but cannot honour
//! yet are problems too; nothing in a file is silently ignored.
//!
//! Not responsible for what a component's file contains (the builder finds
//! that out; [`Checked::component_problem`] puts it at the right place), nor
//! for printing: callers print what [`Problems::render`] returns. The world
//! comes in through [`Environment`], so that tests need none.
//!
//! `elements` holds one file per kind of value, `sections` one per table;
//! both read through `document` and write into a `report`.
#![forbid(unsafe_code)]

mod across;
mod alone;
mod document;
mod elements;
mod environment;
mod parse;
mod problem;
mod render;
mod report;
mod sections;
mod suggest;

pub use alone::for_component;
pub use elements::address::{InvalidAddress, parse_address};
pub use elements::workers::MAX_WORKERS;
pub use environment::{Environment, MAX_FILE, ProcessEnvironment};
pub use parse::{Checked, Places, load, parse};
pub use problem::{Problem, Problems};
