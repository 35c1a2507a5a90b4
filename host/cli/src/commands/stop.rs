//! `skep stop`: ends the primary and waits until it is gone.

use crate::args::Strength;
use crate::control::Control;
use crate::exit::Failure;
use crate::print::Printer;

/// Asks the primary, repeats what it says, and waits.
pub(crate) fn run(control: &Control, strength: Strength, printer: Printer) -> Result<(), Failure> {
    let now = strength == Strength::Now;
    control
        .connect()?
        .stop(now, |message| printer.note(message))
        .map_err(|error| control.failed(error))?;
    printer.note("stopped");
    Ok(())
}
