//! Owns the exit code, and the choice of the allocator.

use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// Its options are set in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    holdline::cli::execute()
}
