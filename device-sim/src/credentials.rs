//! How devices prove who they are: user names and tokens, unless a client
//! certificate of the transport does.

use std::fmt;
use std::time::Duration;

use hub_core::connection_string::{Credential, DeviceConnection, ServiceConnection};
use hub_core::ids::Target;
use hub_core::sas::{self, Key, Token, derive_device_key};
use hub_core::time::Timestamp;
use hub_core::user_name::UserName;

/// Version of the service's MQTT interface that the simulator speaks.
const API_VERSION: &str = "2021-04-12";
/// How long tokens are valid unless said otherwise, as in the SDKs.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// What a CONNECT carries besides the client id.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user_name: String,
    /// The token; `None` where a certificate takes its place.
    pub password: Option<String>,
    /// How long the token is valid from now; `None` when another one could
    /// not be made.
    pub valid_for: Option<Duration>,
}

/// Leaves the token out.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user_name", &self.user_name)
            .field("valid_for", &self.valid_for)
            .finish_non_exhaustive()
    }
}

/// Makes the [`Login`] of every device of a fleet.
#[derive(Debug, Clone)]
pub struct Credentials {
    host: String,
    proof: Proof,
    lifetime: Duration,
}

#[derive(Clone, Debug)]
enum Proof {
    /// Every device has a key of its own, derived from this one.
    Derived(Key),
    /// One key for a single device.
    Key(Key),
    Policy {
        policy: String,
        key: Key,
    },
    Token(Box<str>),
    /// The transport's.
    Certificate,
}

impl Credentials {
    /// Devices sign with the shared access policy's key, which has to permit
    /// device connections. They need not have been registered by the
    /// simulator.
    #[must_use]
    pub fn policy(service: &ServiceConnection) -> Self {
        Self::new(
            service.host.name(),
            Proof::Policy {
                policy: service.policy.clone(),
                key: service.key.clone(),
            },
        )
    }

    /// Every device signs with a key of its own, derived from the policy's key
    /// and the device's id. [`Credentials::device_key`] tells which, so that
    /// the device can be registered with it; the same connection string always
    /// gives the same keys.
    #[must_use]
    pub fn derived(service: &ServiceConnection) -> Self {
        Self::new(service.host.name(), Proof::Derived(service.key.clone()))
    }

    /// The device that a connection string names. If that says `x509=true`,
    /// devices send no token, and the transport has to have their certificate.
    #[must_use]
    pub fn device(device: &DeviceConnection) -> Self {
        let proof = match &device.credential {
            Credential::Key(key) => Proof::Key(key.clone()),
            Credential::PolicyKey { policy, key } => Proof::Policy {
                policy: policy.clone(),
                key: key.clone(),
            },
            Credential::Token(token) => Proof::Token(token.as_str().into()),
            Credential::Certificate => Proof::Certificate,
        };
        Self::new(device.host.name(), proof)
    }

    fn new(host: &str, proof: Proof) -> Self {
        Self {
            host: host.to_owned(),
            proof,
            lifetime: TOKEN_LIFETIME,
        }
    }

    /// Changes how long tokens are valid, an hour by default. A device
    /// reconnects with a new one after 85 % of it.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The host name of the hub.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The symmetric key to register a device with; `None` unless keys are
    /// derived.
    #[must_use]
    pub fn device_key(&self, target: &Target) -> Option<Key> {
        match &self.proof {
            Proof::Derived(group) => Some(derive_device_key(group, &target.to_string())),
            _ => None,
        }
    }

    /// What `target` connects with at the time `now`.
    #[must_use]
    pub fn login(&self, target: &Target, now: Timestamp) -> Login {
        let user_name = UserName {
            host: self.host.clone(),
            target: target.clone(),
            api_version: Some(API_VERSION.to_owned()),
            model_id: None,
            device_client_type: None,
        };
        let sign = |key: &Key, policy: Option<&str>| {
            let expiry = now.saturating_add(self.lifetime).unix_seconds();
            let resource = sas::resource_text(&self.host, target);
            sas::sign(&resource, key, u64::try_from(expiry).unwrap_or(0), policy)
        };
        let (password, valid_for) = match &self.proof {
            Proof::Derived(group) => {
                let key = derive_device_key(group, &target.to_string());
                (Some(sign(&key, None)), Some(self.lifetime))
            }
            Proof::Key(key) => (Some(sign(key, None)), Some(self.lifetime)),
            Proof::Policy { policy, key } => (Some(sign(key, Some(policy))), Some(self.lifetime)),
            Proof::Token(token) => (Some(token.to_string()), None),
            Proof::Certificate => (None, None),
        };
        Login {
            user_name: user_name.to_string(),
            password,
            valid_for,
        }
    }

    /// When a token that someone else made expires; `None` when tokens are
    /// made here.
    #[must_use]
    pub fn fixed_expiry(&self) -> Option<Timestamp> {
        match &self.proof {
            Proof::Token(token) => Token::parse(token).ok().map(|token| token.expires_at()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hub_core::connection_string::ConnectionString;
    use hub_core::ids::DeviceId;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn service() -> ServiceConnection {
        let text = format!("HostName=hub1.azure-devices.net;SharedAccessKeyName=owner;SharedAccessKey={KEY}");
        match ConnectionString::parse(&text).unwrap() {
            ConnectionString::Service(service) => service,
            other => panic!("{other:?}"),
        }
    }

    fn device(text: &str) -> Credentials {
        match ConnectionString::parse(text).unwrap() {
            ConnectionString::Device(device) => Credentials::device(&device),
            other => panic!("{other:?}"),
        }
    }

    fn dev1() -> Target {
        Target::device(DeviceId::parse("dev1").unwrap())
    }

    #[test]
    fn a_devices_own_key_signs_the_documented_token() {
        let credentials = device(&format!(
            "HostName=hub1.azure-devices.net;DeviceId=dev1;SharedAccessKey={KEY}"
        ));
        let now = Timestamp::from_unix_seconds(2_000_000_000 - 3600);
        let login = credentials.login(&dev1(), now);
        assert_eq!(
            login.user_name,
            "hub1.azure-devices.net/dev1/?api-version=2021-04-12"
        );
        // The test vector of the service's documentation of tokens.
        let expected = "SharedAccessSignature sr=hub1.azure-devices.net%2Fdevices%2Fdev1\
            &sig=3ojmTOJ%2Fi%2BCvMefm%2FpOigWKHn1MOqda2jknE7dIsDOw%3D&se=2000000000";
        assert_eq!(login.password.as_deref(), Some(expected));
        assert_eq!(login.valid_for, Some(Duration::from_secs(3600)));
        assert_eq!(credentials.device_key(&dev1()), None);
    }

    #[test]
    fn derived_keys_differ_by_device_and_verify() {
        let credentials = Credentials::derived(&service());
        let login = credentials.login(&dev1(), Timestamp::from_unix_seconds(1));
        let password = login.password.unwrap();
        let token = Token::parse(&password).unwrap();
        let key = credentials.device_key(&dev1()).unwrap();
        assert!(token.verify(&key));
        assert_eq!(token.policy(), None);
        let dev2 = Target::device(DeviceId::parse("dev2").unwrap());
        assert_ne!(credentials.device_key(&dev2).unwrap(), key);
    }

    #[test]
    fn a_policy_is_named_in_the_token() {
        let login = Credentials::policy(&service()).login(&dev1(), Timestamp::from_unix_seconds(1));
        let password = login.password.unwrap();
        let token = Token::parse(&password).unwrap();
        assert_eq!(token.policy(), Some("owner"));
        assert!(token.verify(&service().key));
        assert_eq!(token.resource(), "hub1.azure-devices.net%2Fdevices%2Fdev1");
    }

    #[test]
    fn a_given_token_is_used_as_it_is_and_never_renewed() {
        let token = sas::sign("h%2Fdevices%2Fdev1", &service().key, 77, None);
        let credentials = device(&format!("HostName=h;DeviceId=dev1;SharedAccessSignature={token}"));
        let login = credentials.login(&dev1(), Timestamp::from_unix_seconds(1));
        assert_eq!(login.password, Some(token));
        assert_eq!(login.valid_for, None);
        assert_eq!(credentials.fixed_expiry(), Some(Timestamp::from_unix_seconds(77)));
    }

    #[test]
    fn a_certificate_takes_the_place_of_a_token() {
        let credentials = device("HostName=h;DeviceId=dev1;x509=true");
        let login = credentials.login(&dev1(), Timestamp::from_unix_seconds(1));
        assert_eq!(login.user_name, "h/dev1/?api-version=2021-04-12");
        assert_eq!((login.password, login.valid_for), (None, None));
        assert_eq!(credentials.fixed_expiry(), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let login = Credentials::policy(&service()).login(&dev1(), Timestamp::from_unix_seconds(1));
        assert!(!format!("{login:?}").contains("sig="));
    }
}
