//! `skep build`: a project to a component.

use std::path::Path;

use crate::exit::Failure;
use crate::print::Printer;
use crate::project::Project;

/// Builds, and prints the component's path.
pub(crate) async fn run(dir: &Path, printer: Printer) -> Result<(), Failure> {
    let built = Project::find(dir)?.build(printer).await?;
    printer.data(&format!("{}\n", built.component.display()))
}
