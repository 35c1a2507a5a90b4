//! The supervisor in simulated time: scenarios that state its rules one by
//! one, and laws that hold whatever happens.

mod laws;
mod scenarios;
mod sim;
