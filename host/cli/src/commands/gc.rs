//! `skep gc`: what of a state directory nothing needs. The primary that uses it
//! is asked; where none does, it is done here.

use std::path::{Path, PathBuf};

use skep_primary::{SweepError, sweep_alone};
use skep_wire::SweptFiles;

use super::json;
use crate::args::Format;
use crate::control::{Control, Place};
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::table::{Align, Table, bytes, count};

/// Sweeps, or says what would go.
pub(super) fn run(
    named: Option<PathBuf>,
    config: Option<&Path>,
    dry_run: bool,
    format: Format,
    printer: Printer,
) -> Result<(), Failure> {
    let swept = sweep(named, config, dry_run)?;
    match format {
        Format::Text => printer.data(&render(&swept))?,
        Format::Json => printer.data(&json(&swept)?)?,
    }
    for failed in &swept.failed {
        printer.note(&format!("cannot be deleted: {failed}"));
    }
    if swept.failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::said(Exit::Failed))
    }
}

fn sweep(
    named: Option<PathBuf>,
    config: Option<&Path>,
    dry_run: bool,
) -> Result<SweptFiles, Failure> {
    let place = Place::of(config);
    // A socket that was named says which primary is meant, and nothing of where
    // its state is, unless the configuration was named as well.
    let alone = named.is_none() || config.is_some();
    let control = Control::at(named.unwrap_or_else(|| place.socket()));
    let refused = match control.connect() {
        Ok(mut primary) => {
            return primary.gc(dry_run).map_err(|error| control.failed(error));
        }
        Err(failure) => failure,
    };
    if !alone || refused.exit() != Exit::NoPrimary {
        return Err(refused);
    }
    sweep_alone(&place.state_dir, dry_run).map_err(|error| match error {
        SweepError::Running { .. } => Failure::new(
            Exit::NoPrimary,
            format!("{error}, and does not answer at its control socket"),
        )
        .hint("--control or SKEP_CONTROL names the socket"),
        SweepError::Failed(why) => Failure::new(Exit::Failed, why),
    })
}

fn render(swept: &SweptFiles) -> String {
    use Align::{Left, Right};
    let total = |verb: &str| {
        let files = count(usize::try_from(swept.count).unwrap_or(usize::MAX), "file");
        format!(
            "{files} {verb}, {} in {}\n",
            bytes(swept.bytes),
            swept.state_dir
        )
    };
    if swept.count == 0 {
        return format!("nothing to delete in {}\n", swept.state_dir);
    }
    let mut table = Table::new([("SIZE", Right), ("WHY", Left), ("FILE", Left)]);
    for file in &swept.files {
        table.row([bytes(file.bytes), file.why.clone(), file.path.clone()]);
    }
    let mut text = table.render();
    let named = swept.files.len() as u64;
    if named < swept.count {
        text.push_str(&format!("and {} more\n", swept.count - named));
    }
    text.push_str(&total(if swept.dry_run { "would go" } else { "deleted" }));
    text
}

#[cfg(test)]
mod tests {
    use skep_wire::SweptFile;

    use super::*;

    #[test]
    fn people_read_what_goes_and_how_large_it_is() {
        let file = |path: &str, bytes, why: &str| SweptFile {
            path: path.into(),
            bytes,
            why: why.into(),
        };
        let swept = SweptFiles {
            state_dir: "/var/lib/skep".into(),
            dry_run: true,
            count: 3,
            bytes: 3 << 20,
            files: vec![
                file("components/ab.wasm", 2 << 20, "component of no revision"),
                file("artifacts/ab.lock", 0, "lock"),
            ],
            failed: Vec::new(),
        };
        let golden = "\
   SIZE  WHY                       FILE
2.0 MiB  component of no revision  components/ab.wasm
    0 B  lock                      artifacts/ab.lock
and 1 more
3 files would go, 3.0 MiB in /var/lib/skep
";
        assert_eq!(render(&swept), golden);
        let none = SweptFiles {
            state_dir: "/var/lib/skep".into(),
            ..SweptFiles::default()
        };
        assert_eq!(render(&none), "nothing to delete in /var/lib/skep\n");
    }
}
