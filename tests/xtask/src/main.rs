//! Developer commands: `cargo xtask COMMAND`.
//!
//! Measurements of whole servers, on real processes: against other servers
//! (`compare`), of starting and memory (`ready`), of the spread of connections
//! (`balance`). What is small enough for a function call is measured by
//! criterion, in `benches/`. Nothing here judges correctness but `churn`, which
//! is a test of too many requests for a test suite.
#![forbid(unsafe_code)]

mod balance;
mod build;
mod churn;
mod client;
mod compare;
mod cost;
mod fleet;
mod machine;
mod paced;
mod peers;
mod print;
mod process;
mod ready;
mod request;
mod server;
mod statistics;
mod table;
mod target;
mod tenants;
mod tools;
mod wrk;

use std::net::SocketAddr;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Developer commands of skep
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare skep with other servers, on this machine and one after the other
    Compare(compare::Options),
    /// Count what one request and one connection cost
    Cost(cost::Options),
    /// Measure starting, replacing, idle memory and the cost of many apps
    Ready(ready::Options),
    /// Measure how connections spread over workers
    Balance(balance::Options),
    /// Swap, restart, reload and scale under load, and insist that no request
    /// is lost
    Churn(churn::Options),
    /// Serve many tenants, one of them hostile, and measure what the others
    /// notice
    Tenants(tenants::Options),
    /// One process of the bare hyper server
    #[command(hide = true)]
    PeerHyper {
        /// The address that all its processes share
        address: SocketAddr,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    // The losing branch is dropped, and with it every server that it started.
    tokio::select! {
        result = run(args.command) => result,
        result = interrupted() => result,
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Compare(options) => compare::run(&options).await,
        Command::Cost(options) => cost::run(&options).await,
        Command::Ready(options) => ready::run(&options).await,
        Command::Balance(options) => balance::run(&options).await,
        Command::Churn(options) => churn::run(&options).await,
        Command::Tenants(options) => tenants::run(&options),
        Command::PeerHyper { address } => peers::hyper::serve(address).await,
    }
}

async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}
