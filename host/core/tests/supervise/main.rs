//! The supervisor in simulated time: scenarios that state its rules one by
//! one, and laws that hold whatever happens.
#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test driver may panic, and takes events as the supervisor does"
)]

mod checked;
mod laws;
mod recycling;
mod rolls;
mod scenarios;
mod sim;
mod world;
