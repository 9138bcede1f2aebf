//! Switches as Go's programs take them: `--prefix`, but also `--prefix=true` and `--prefix=false`.

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Command};

/// Lets every switch of a command, and of the commands below it, take a value.
pub(crate) fn take_values(command: Command) -> Command {
    command.mut_args(take_value).mut_subcommands(take_values)
}

fn take_value(argument: Arg) -> Arg {
    if !matches!(argument.get_action(), ArgAction::SetTrue) {
        return argument;
    }
    argument
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .value_parser(BoolishValueParser::new())
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .hide_possible_values(true)
}
