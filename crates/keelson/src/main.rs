//! `keelson`: parse, build, run, drain. Everything else is a library of this workspace.

mod bundled_crds;
mod cli;
mod commands;
mod config;
mod data_dir;
mod exit;
mod log;
mod memory;
mod place;
mod supervisor;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, ConfigCommand, KubeconfigCommand};

fn main() -> ExitCode {
    // The shim must stay single-threaded and small: it is entered before anything else is set up.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "shim") {
        return runtime::shim::main(&arguments.collect::<Vec<_>>());
    }
    memory::set_up();
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command) -> Result<ExitCode, exit::Failure> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Up(flags) => up::main(&flags).map(done),
        Command::Down(flags) => commands::down::main(&flags).map(done),
        Command::Status(at) => commands::status::main(&at).map(done),
        Command::Simulate(flags) => commands::simulate::main(&flags).map(done),
        Command::Version => {
            println!("keelson {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Explain(flags)) => commands::explain::main(&flags).map(done),
        Command::Kubeconfig(KubeconfigCommand::Merge { at, into, context }) => {
            commands::kubeconfig::merge(&at, into.as_deref(), &context).map(done)
        }
        Command::Backup(command) => commands::backup::main(command).map(done),
        Command::Check => commands::check::main(),
        Command::Mesh(command) => commands::mesh::main(&command).map(done),
        Command::Image(command) => commands::image::main(command).map(done),
        Command::Gateway(command) => commands::gateway::main(&command).map(done),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut <Cli as clap::CommandFactory>::command(),
                "keelson",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}
