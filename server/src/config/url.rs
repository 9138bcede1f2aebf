//! URLs of etcd's flags: a scheme, a host and a port, nothing else.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

/// A URL to listen on or to be reached at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Name or address; IPv6 without brackets. For sockets of the file system, everything after `//`.
    pub host: String,
    /// Port; zero for sockets of the file system.
    pub port: u16,
}

/// How a URL is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A socket of the file system.
    Unix,
    /// TLS over a socket of the file system.
    Unixs,
}

/// Why a text is no URL. The words are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// Host or port is missing or malformed.
    #[error("URL address does not have the form \"host:port\": {0}")]
    Address(String),
    /// Something follows the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// Nothing but commas.
    #[error("no valid URLs given")]
    Empty,
}

impl Url {
    /// Reads one URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let scheme_error = || UrlError::Scheme(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(scheme_error)?;
        let scheme = Scheme::parse(scheme).ok_or_else(scheme_error)?;
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Self { scheme, host: rest.to_owned(), port: 0 });
        }
        if let Some((_, path)) = rest.split_once('/')
            && !path.is_empty()
        {
            return Err(UrlError::Path(text.to_owned()));
        }
        let address_error = || UrlError::Address(text.to_owned());
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(address_error)?;
        let port = port.parse().map_err(|_not_a_port| address_error())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(address_error());
        }
        Ok(Self { scheme, host: bracketed.unwrap_or(host).to_owned(), port })
    }

    /// Whether a socket can be bound to it without asking a name server (behaviour.md 10.1).
    #[must_use]
    pub fn is_bindable(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
            || self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok()
    }

    /// `host:port`, as addresses are written.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "unix" => Some(Self::Unix),
            "unixs" => Some(Self::Unixs),
            _ => None,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Http | Scheme::Https => write!(f, "{}://{}", self.scheme, self.address()),
            Scheme::Unix | Scheme::Unixs => write!(f, "{}://{}", self.scheme, self.host),
        }
    }
}

/// Reads URLs separated by commas; they come back sorted, as etcd sorts them.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Url>, UrlError> {
    if text.is_empty() {
        return Err(UrlError::Empty);
    }
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort_by_key(ToString::to_string);
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_scheme_host_and_port() {
        let url = Url::parse("http://[::1]:2379").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 2379));
        assert_eq!(url.to_string(), "http://[::1]:2379");
        assert!(url.is_bindable());
        assert!(!Url::parse("http://example.org:1").unwrap().is_bindable());
        assert_eq!(Url::parse("http://a:1/").unwrap().to_string(), "http://a:1");
        let unix = Url::parse("unix://localhost:m0").unwrap();
        assert_eq!(unix.to_string(), "unix://localhost:m0");
    }

    #[test]
    fn what_is_no_url_is_named() {
        let error = |text| Url::parse(text).unwrap_err().to_string();
        assert_eq!(error("ftp://a:1"), "URL scheme must be http, https, unix, or unixs: ftp://a:1");
        assert_eq!(error("a:1"), "URL scheme must be http, https, unix, or unixs: a:1");
        let form = "URL address does not have the form \"host:port\": ";
        for bad in ["http://a", "http://a:b", "http://a:65536", "http://::1:1"] {
            assert_eq!(error(bad), format!("{form}{bad}"));
        }
        assert_eq!(error("http://a:1/x"), "URL must not contain a path: http://a:1/x");
        assert!(parse_list("").is_err());
    }
}
