//! Who a connection is: the certificate of its handshake, and the tokens that
//! it has shown and that are still good.

use hub_core::limits;
use hub_core::sas::Token;
use hub_core::time::Timestamp;
use job_service::Clock;

use super::address::{Address, Events};
use crate::hub::HubState;
use crate::hub::access::{Authorized, Channel, Credentials, Denied, Permission};
use crate::tls::ClientCertificate;

/// What a connection can prove.
pub(crate) struct Caller {
    certificate: Option<Box<ClientCertificate>>,
    tokens: Vec<Held>,
}

/// A token that was found good.
struct Held {
    text: Box<str>,
    until: Timestamp,
}

/// The right to use an address.
pub(crate) struct Grant {
    /// When the token ends that gives it; never, if none does.
    pub(crate) until: Timestamp,
    /// For a device's own address, how that was proved.
    pub(crate) authorized: Option<Authorized>,
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the connection has as many tokens as it may")]
    TooMany,
}

impl Caller {
    pub(super) fn new(certificate: Option<ClientCertificate>) -> Self {
        Self {
            certificate: certificate.map(Box::new),
            tokens: Vec::new(),
        }
    }

    pub(super) fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Takes a token, instead of one for the same resource and policy.
    ///
    /// # Errors
    /// When the hub does not know it as its own, or there are too many.
    pub(super) fn put(&mut self, hub: &HubState, text: &str) -> Result<(), PutError> {
        let until = hub.check_token(text)?;
        let held = Held {
            text: text.into(),
            until,
        };
        let same = |other: &Held| match (Token::parse(text), Token::parse(&other.text)) {
            (Ok(new), Ok(old)) => new.resource() == old.resource() && new.policy() == old.policy(),
            _ => false,
        };
        match self.tokens.iter().position(same) {
            Some(at) => self.tokens[at] = held,
            None if self.tokens.len() >= limits::AMQP_TOKENS => return Err(PutError::TooMany),
            None => self.tokens.push(held),
        }
        Ok(())
    }

    /// When the first token ends.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.tokens.iter().map(|held| held.until).min()
    }

    /// Drops tokens that have ended; says whether there were any.
    pub(super) fn drop_ended(&mut self) -> bool {
        let now = Clock::system_now();
        let before = self.tokens.len();
        self.tokens.retain(|held| held.until > now);
        self.tokens.len() < before
    }

    /// Whether the connection may use an address now.
    ///
    /// # Errors
    /// The reason why the token failed that came nearest; for the log only.
    pub(crate) fn may(&self, hub: &HubState, address: &Address) -> Result<Grant, Denied> {
        let without_token = |authorized| Grant {
            until: Timestamp::MAX,
            authorized,
        };
        let service = |path| {
            let permissions = &[Permission::ServiceConnect];
            self.try_tokens(|token| hub.authorize_service(token, path, permissions).map(|()| None))
        };
        match address {
            Address::Cbs => Ok(without_token(None)),
            Address::CloudToDevice => service("messages/devicebound"),
            Address::Feedback => service("messages/servicebound/feedback"),
            Address::FileNotifications => service("messages/servicebound/filenotifications"),
            Address::Events(Events { name, node }) => {
                let paths = hub.event_paths(name.entity(), &node.path());
                self.try_tokens(|token| hub.authorize_events(token, &paths).map(|()| None))
            }
            Address::Device(target, _) => {
                let authorize = |token: Option<&str>| {
                    let credentials = Credentials {
                        token,
                        certificate: self.certificate.as_deref(),
                        channel: Channel::Connection,
                    };
                    hub.authorize_device(&credentials, target).map(Some)
                };
                let by_token = self.try_tokens(|token| authorize(Some(token)));
                match by_token {
                    Err(_) if self.has_certificate() => authorize(None).map(without_token),
                    by_token => by_token,
                }
            }
        }
    }

    /// The first success; otherwise the failure that says most: that of a token
    /// which was at least meant for it.
    fn try_tokens(
        &self,
        check: impl Fn(&str) -> Result<Option<Authorized>, Denied>,
    ) -> Result<Grant, Denied> {
        let mut denied = Denied::Missing;
        for held in &self.tokens {
            match check(&held.text) {
                Ok(authorized) => {
                    return Ok(Grant {
                        until: held.until,
                        authorized,
                    });
                }
                Err(reason) if denied == Denied::Missing || reason != Denied::Scope => denied = reason,
                Err(_) => {}
            }
        }
        Err(denied)
    }
}
