//! The `blat` executable: parses, runs, exits. Everything else is in the library, so that the man pages come from it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(blat_cli::run(std::env::args_os()).0)
}
