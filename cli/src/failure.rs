//! How a command fails: etcdctl's exit codes and one line on stderr (etcdctl.md §1).

use kvd_client::{Error, concurrency};

/// Any error of server or client.
const ERROR: u8 = 1;
/// The client could not be made.
const BAD_CONNECTION: u8 = 2;
/// What was read from stdin is not what the command reads.
const INVALID_INPUT: u8 = 3;
/// The command has no such output format, or no such way of reading.
const BAD_FEATURE: u8 = 4;
/// The server ended the watch.
const INTERRUPTED: u8 = 5;
/// Wrong arguments.
const BAD_ARGS: u8 = 128;

/// Why a command ended early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// What is printed after `Error: `.
    pub(crate) text: String,
    /// What etcdctl would not say, printed before.
    pub(crate) detail: Option<String>,
}

impl Failure {
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::new(ERROR, text)
    }

    pub(crate) fn bad_connection(text: impl Into<String>) -> Self {
        Self::new(BAD_CONNECTION, text)
    }

    pub(crate) fn invalid_input(text: impl Into<String>) -> Self {
        Self::new(INVALID_INPUT, text)
    }

    pub(crate) fn bad_feature(text: impl Into<String>) -> Self {
        Self::new(BAD_FEATURE, text)
    }

    pub(crate) fn interrupted(text: impl Into<String>) -> Self {
        Self::new(INTERRUPTED, text)
    }

    pub(crate) fn bad_args(text: impl Into<String>) -> Self {
        Self::new(BAD_ARGS, text)
    }

    /// A command line that does not parse ends with 1, as etcdctl's does.
    pub(crate) fn from_syntax(error: &clap::Error) -> Self {
        let rendered = error.render().to_string();
        Self::error(rendered.trim_start_matches("error: ").trim_end())
    }

    /// The same failure in a sentence of the command.
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.text = format!("{what} ({})", self.text);
        self
    }

    /// The same failure with the exit code of wrong arguments.
    pub(crate) fn into_bad_args(self) -> Self {
        Self { code: BAD_ARGS, ..self }
    }

    /// The same failure with the exit code of a bad connection: some commands fail so whatever the
    /// server said.
    pub(crate) fn into_bad_connection(self) -> Self {
        Self { code: BAD_CONNECTION, ..self }
    }

    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), detail: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            // etcdctl's words for a cluster that does not answer; scripts look for them.
            Error::Unavailable { last } => Self {
                detail: Some(format!("no endpoint answered, the last was {last}")),
                ..Self::error("context deadline exceeded")
            },
            Error::Unknown { reason } => Self {
                detail: Some("the request may or may not have been carried out".to_owned()),
                ..Self::error(reason)
            },
            Error::InvalidEndpoint { .. } | Error::NoEndpoints => {
                Self::bad_connection(error.to_string())
            }
            error => Self::error(error.to_string()),
        }
    }
}

impl From<concurrency::Error> for Failure {
    fn from(error: concurrency::Error) -> Self {
        match error {
            concurrency::Error::Call(error) => error.into(),
            error => Self::error(error.to_string()),
        }
    }
}
