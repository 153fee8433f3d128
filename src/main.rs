//! Owns the exit code.

fn main() {}
