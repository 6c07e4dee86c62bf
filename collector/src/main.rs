//! The offpath collector's program.

fn main() {}
