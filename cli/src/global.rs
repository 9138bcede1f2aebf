//! The flags every command takes. A flag wins over `KVCTL_<FLAG>`, that over `ETCDCTL_<FLAG>`.

use std::time::Duration;

use clap::{ArgAction, Args};
use kvd_client::{Client, Options};

use crate::duration;
use crate::failure::Failure;

/// As typed.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Members to ask, separated by commas [default: 127.0.0.1:2379] [env: KVCTL_ENDPOINTS]
    #[arg(long, global = true, value_name = "HOST:PORT", action = ArgAction::Append)]
    endpoints: Vec<String>,
    /// Form of the output: simple, fields, json, protobuf or table [default: simple]
    #[arg(long, short = 'w', global = true, value_name = "FORM")]
    write_out: Option<String>,
    /// Print keys and values as \xNN
    #[arg(
        long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", hide_possible_values = true
    )]
    hex: Option<bool>,
    /// Time for one connection to be made [default: 2s]
    #[arg(long, global = true, value_name = "DURATION")]
    dial_timeout: Option<String>,
    /// Time for the command [default: 5s]
    #[arg(long, global = true, value_name = "DURATION")]
    command_timeout: Option<String>,
    /// Time between probes of a connection in use [default: 6s]
    #[arg(long, global = true, value_name = "DURATION")]
    keepalive_time: Option<String>,
    /// Time for a probe to be answered [default: 6s]
    #[arg(long, global = true, value_name = "DURATION")]
    keepalive_timeout: Option<String>,
}

/// As meant.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) options: Options,
    pub(crate) format: Format,
    pub(crate) hex: bool,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Global {
    pub(crate) fn resolve(
        args: GlobalArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let set =
            |flag: &str| env(&format!("KVCTL_{flag}")).or_else(|| env(&format!("ETCDCTL_{flag}")));
        let endpoints = if args.endpoints.is_empty() {
            vec![set("ENDPOINTS").unwrap_or_else(|| "127.0.0.1:2379".to_owned())]
        } else {
            args.endpoints
        };
        let endpoints = endpoints.iter().flat_map(|list| list.split(','));
        let mut options = Options::new(endpoints.map(str::trim));
        let durations = [
            (args.dial_timeout, "DIAL_TIMEOUT", &mut options.connect_timeout),
            (args.command_timeout, "COMMAND_TIMEOUT", &mut options.request_timeout),
            (args.keepalive_time, "KEEPALIVE_TIME", &mut options.keep_alive_interval),
            (args.keepalive_timeout, "KEEPALIVE_TIMEOUT", &mut options.keep_alive_timeout),
        ];
        for (flag, name, option) in durations {
            if let Some(text) = flag.or_else(|| set(name)) {
                *option = bounded(&text)?;
            }
        }
        let format = args.write_out.or_else(|| set("WRITE_OUT"));
        let format = format.map_or(Ok(Format::Simple), |name| Format::parse(&name))?;
        let hex = args.hex.or_else(|| set("HEX").map(|value| value == "1" || value == "true"));
        Ok(Self { options, format, hex: hex.unwrap_or(false) })
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::lazy(self.options.clone())?)
    }

    /// Refuses the output formats the command does not have, before anything is done.
    pub(crate) fn allow(&self, formats: &[Format]) -> Result<(), Failure> {
        if formats.contains(&self.format) {
            return Ok(());
        }
        let name = self.format.name();
        Err(Failure::bad_feature(format!("{name} not supported as output format")))
    }
}

impl Format {
    fn parse(name: &str) -> Result<Self, Failure> {
        let all = [Self::Simple, Self::Fields, Self::Json, Self::Protobuf, Self::Table];
        let found = all.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| Failure::bad_feature("unsupported output format"))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Table => "table",
        }
    }
}

/// Nobody waits longer than a day, and clocks can add a day without overflowing.
fn bounded(text: &str) -> Result<Duration, Failure> {
    const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
    let parsed = duration::parse(text).map_err(Failure::error)?;
    Ok(parsed.min(DURATION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_our_variable_and_that_over_etcdctls() {
        let both = |name: &str| match name {
            "KVCTL_ENDPOINTS" => Some("k:1,l:1".to_owned()),
            "ETCDCTL_ENDPOINTS" => Some("e:1".to_owned()),
            "ETCDCTL_COMMAND_TIMEOUT" => Some("7s".to_owned()),
            _ => None,
        };
        let global = Global::resolve(GlobalArgs::default(), both).unwrap();
        assert_eq!(global.options.endpoints, ["k:1", "l:1"]);
        assert_eq!(global.options.request_timeout, Duration::from_secs(7));
        let typed = GlobalArgs { endpoints: vec!["f:1".to_owned()], ..GlobalArgs::default() };
        let global = Global::resolve(typed, both).unwrap();
        assert_eq!(global.options.endpoints, ["f:1"]);
    }

    #[test]
    fn unknown_formats_are_refused() {
        let args = GlobalArgs { write_out: Some("yaml".to_owned()), ..GlobalArgs::default() };
        let failure = Global::resolve(args, |_| None).unwrap_err();
        assert_eq!(failure, Failure::bad_feature("unsupported output format"));
    }
}
