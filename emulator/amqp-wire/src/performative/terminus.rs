//! Ends of links: where messages come from and go to (AMQP 1.0 part 3.5).
//!
//! What a hub has no use for is kept as it came, so that an answer can repeat
//! it: clients hang when source or target is not there.

use bytes::BytesMut;
use bytestring::ByteString;

use crate::decode::{DecodeError, Fields as In};
use crate::encode::Fields as Out;
use crate::value::Value;

/// Where the messages of a link come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The address, usually a string; null if there is none.
    pub address: Value,
    /// `durable`: what survives, from 0 to 2.
    pub durable: u32,
    /// `expiry-policy`, a symbol.
    pub expiry_policy: Option<ByteString>,
    /// `timeout` in seconds, after which an unused terminus expires.
    pub timeout: u32,
    /// Whether the node is to be made for this link.
    pub dynamic: bool,
    /// `dynamic-node-properties`: a map, or null.
    pub dynamic_node_properties: Value,
    /// `distribution-mode`, a symbol.
    pub distribution_mode: Option<ByteString>,
    /// `filter`: a map from symbols to described values, or null.
    pub filter: Value,
    /// `default-outcome`: a described list, or null.
    pub default_outcome: Value,
    /// `outcomes`: an array of symbols, or null.
    pub outcomes: Value,
    /// `capabilities`: an array of symbols, or null.
    pub capabilities: Value,
}

/// Where the messages of a link go to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// The address, usually a string; null if there is none.
    pub address: Value,
    /// `durable`: what survives, from 0 to 2.
    pub durable: u32,
    /// `expiry-policy`, a symbol.
    pub expiry_policy: Option<ByteString>,
    /// `timeout` in seconds, after which an unused terminus expires.
    pub timeout: u32,
    /// Whether the node is to be made for this link.
    pub dynamic: bool,
    /// `dynamic-node-properties`: a map, or null.
    pub dynamic_node_properties: Value,
    /// `capabilities`: an array of symbols, or null.
    pub capabilities: Value,
}

impl Source {
    /// A source with an address and the defaults of the standard.
    #[must_use]
    pub fn at(address: impl Into<ByteString>) -> Self {
        Self {
            address: Value::string(address),
            ..Self::default()
        }
    }

    pub(super) fn read(code: u64, fields: &mut In<'_, '_>) -> Result<Self, DecodeError> {
        if code != 0x28 {
            return Err(DecodeError::Field("source"));
        }
        Ok(Self {
            address: fields.value()?,
            durable: fields.uint("durable")?.unwrap_or_default(),
            expiry_policy: fields.text("expiry-policy")?,
            timeout: fields.uint("timeout")?.unwrap_or_default(),
            dynamic: fields.bool("dynamic")?.unwrap_or_default(),
            dynamic_node_properties: fields.value()?,
            distribution_mode: fields.text("distribution-mode")?,
            filter: fields.value()?,
            default_outcome: fields.value()?,
            outcomes: fields.value()?,
            capabilities: fields.value()?,
        })
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        Out::write(0x28, out, |fields| {
            fields.value(&self.address);
            fields.uint(self.durable);
            fields.symbol(self.expiry_policy.as_deref());
            fields.uint(self.timeout);
            fields.bool(self.dynamic);
            fields.value(&self.dynamic_node_properties);
            fields.symbol(self.distribution_mode.as_deref());
            fields.value(&self.filter);
            fields.value(&self.default_outcome);
            fields.value(&self.outcomes);
            fields.value(&self.capabilities);
        });
    }
}

impl Target {
    /// A target with an address and the defaults of the standard.
    #[must_use]
    pub fn at(address: impl Into<ByteString>) -> Self {
        Self {
            address: Value::string(address),
            ..Self::default()
        }
    }

    /// `None` for a target that is no node, such as a transaction coordinator:
    /// to a hub it is a link without an address.
    pub(super) fn read(code: u64, fields: &mut In<'_, '_>) -> Result<Option<Self>, DecodeError> {
        if code != 0x29 {
            return Ok(None);
        }
        Ok(Some(Self {
            address: fields.value()?,
            durable: fields.uint("durable")?.unwrap_or_default(),
            expiry_policy: fields.text("expiry-policy")?,
            timeout: fields.uint("timeout")?.unwrap_or_default(),
            dynamic: fields.bool("dynamic")?.unwrap_or_default(),
            dynamic_node_properties: fields.value()?,
            capabilities: fields.value()?,
        }))
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        Out::write(0x29, out, |fields| {
            fields.value(&self.address);
            fields.uint(self.durable);
            fields.symbol(self.expiry_policy.as_deref());
            fields.uint(self.timeout);
            fields.bool(self.dynamic);
            fields.value(&self.dynamic_node_properties);
            fields.value(&self.capabilities);
        });
    }
}
