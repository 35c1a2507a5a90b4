//! The fault: a component of `wasi:cli/command`, which exports no handler.
//!
//! The outcome: refused before it serves; the message says what it lacks.

fn main() {
    println!("I am a command.");
}
