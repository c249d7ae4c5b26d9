//! Host names with an optional port.

use std::fmt;

/// A host name or address and perhaps a port, such as
/// `my-hub.azure-devices.net`, `localhost:8443` or `[::1]:8883`.
///
/// Azure's own connection strings never carry a port; some clients of a local
/// hub need one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

/// Why a text is not a [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is no name.
    #[error("the host name is empty")]
    Empty,
    /// The name contains a character that no host name has.
    #[error("the host name contains {found:?}")]
    Character {
        /// The first offending character.
        found: char,
    },
    /// What follows the colon is not a port.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Reads `name[:port]`. Names are ASCII letters, digits, `-`, `.` and `_`;
    /// an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) => {
                check(address, |c| c.is_ascii_hexdigit() || c == ':' || c == '.')?;
                let name_bytes = address.len() + 2;
                match port.strip_prefix(':') {
                    None if port.is_empty() => (text, None),
                    None => return Err(HostError::Port),
                    Some(port) => (&text[..name_bytes], Some(port)),
                }
            }
            None => {
                let (name, port) = match text.split_once(':') {
                    None => (text, None),
                    Some((name, port)) => (name, Some(port)),
                };
                check(name, |c| c.is_ascii_alphanumeric() || "-._".contains(c))?;
                (name, port)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            port: port.map(parse_port).transpose()?,
        })
    }

    /// The name without the port; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, 1 to 65535; `None` leaves it to the protocol.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.port {
            None => Ok(()),
            Some(port) => write!(f, ":{port}"),
        }
    }
}

fn check(name: &str, legal: impl Fn(char) -> bool) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    match name.chars().find(|c| !legal(*c)) {
        None => Ok(()),
        Some(found) => Err(HostError::Character { found }),
    }
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    // Digits only: the number parser would also take a plus sign.
    match text.parse() {
        Ok(port) if port != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(HostError::Port),
    }
}
