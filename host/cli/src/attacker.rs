//! The same program with workers that attack what is around them: built by the
//! tests, never installed.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    skep_cli::main()
}
