//! The runtime's shim alone, for this crate's tests; Keelson starts it as `keelson shim`.

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(2).collect();
    runtime::shim::main(&args)
}
