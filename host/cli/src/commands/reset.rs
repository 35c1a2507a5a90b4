//! `skep reset`: clears the breakers of a pool.

use crate::control::Control;
use crate::exit::Failure;
use crate::print::Printer;

/// Asks the primary.
pub(crate) fn run(control: &Control, pool: &str, printer: Printer) -> Result<(), Failure> {
    control
        .connect()?
        .reset(pool)
        .map_err(|error| control.failed(error))?;
    printer.note(&format!("pool {pool} is reset"));
    Ok(())
}
