//! What tests of the command line share: running the binary as a user does.

use std::process::{Command, Output};

/// Returns the binary with these arguments, without the environment of whoever runs the tests.
pub(crate) fn sagellm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagellm"));
    command.args(arguments).env_clear();
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    sagellm(arguments).output().expect("the binary starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
