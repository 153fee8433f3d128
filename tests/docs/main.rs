//! The manual against the program, in both directions: what a page names is there, and what is there a page
//! names. Its configurations can be loaded, its commands can be given, its links lead somewhere.
#![allow(clippy::unwrap_used, reason = "tests")]

mod blocks;
mod figures;
mod links;
mod map;
mod page;
mod settings;
mod shell;
#[path = "../support/mod.rs"]
mod support;
mod words;
