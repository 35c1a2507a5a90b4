//! Rollouts and the convergence of workers in simulated time: scenarios that
//! state their rules one by one, and laws that hold whatever happens.
//!
//! `SKEP_SIM_STEPS` sets how many steps the simulations take.
#![expect(clippy::unwrap_used, reason = "a test driver may panic")]

mod converge;
mod fleet;
mod health;
mod laws;
mod noise;
mod passages;
mod random;
