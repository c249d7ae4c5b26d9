//! Filling the registry from a file, so that a development hub starts with the
//! devices that its users expect.

use hub_core::error::{ErrorCode, ServiceError};
use hub_core::ids::{DeviceId, ModuleId, Target};
use hub_core::json::check_depth;
use hub_core::registry::{DeviceSpec, IfMatch, ModuleSpec, Put};
use hub_core::twin::TwinPatch;
use serde_json::Value;

use crate::hub::HubState;
use crate::hub::cell::DeviceState;

/// What became of the identities in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Identities that are new.
    pub created: usize,
    /// Identities that existed and were left as they are.
    pub existing: usize,
}

/// Why a file was not imported.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// The text is neither a JSON array nor one JSON object per line.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Where, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// An identity is not acceptable. Those before it have been created.
    #[error("identity {number} ({id}): {source}")]
    Identity {
        /// Which identity, counted from 1.
        number: usize,
        /// Its id as the file has it.
        id: String,
        /// What is wrong.
        source: ServiceError,
    },
}

/// Creates the identities of `text` that do not exist yet: a JSON array, or
/// one JSON object per line.
///
/// Each object has a `deviceId` (or `id`), possibly a `moduleId`, the members
/// of an identity document (`authentication`, `status`, …), and possibly
/// `tags` and `properties.desired` for its twin.
pub(crate) fn import(hub: &HubState, text: &str) -> Result<Imported, ImportError> {
    let mut imported = Imported::default();
    for (index, entry) in entries(text)?.iter().enumerate() {
        let done = import_one(hub, entry).map_err(|source| ImportError::Identity {
            number: index + 1,
            id: id_text(entry).unwrap_or("no id").chars().take(128).collect(),
            source,
        })?;
        match done {
            Put::Create => imported.created += 1,
            Put::Replace => imported.existing += 1,
        }
    }
    Ok(imported)
}

fn entries(text: &str) -> Result<Vec<Value>, ImportError> {
    let parse = |text: &str, line: usize| {
        check_depth(text.as_bytes()).map_err(|e| ImportError::Syntax {
            line,
            reason: e.to_string(),
        })?;
        serde_json::from_str::<Value>(text).map_err(|e| ImportError::Syntax {
            line: line + e.line() - 1,
            reason: e.to_string(),
        })
    };
    if text.trim_start().starts_with('[') {
        return match parse(text, 1)? {
            Value::Array(entries) => Ok(entries),
            _ => Err(ImportError::Syntax {
                line: 1,
                reason: "not an array".into(),
            }),
        };
    }
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| parse(line, index + 1))
        .collect()
}

fn id_text(entry: &Value) -> Option<&str> {
    entry.get("deviceId").or_else(|| entry.get("id"))?.as_str()
}

/// Says `Replace` for an identity that exists, which is then left alone.
fn import_one(hub: &HubState, entry: &Value) -> Result<Put, ServiceError> {
    let id = id_text(entry).ok_or_else(|| ServiceError::invalid("a deviceId is required"))?;
    let device = DeviceId::parse(id).map_err(|e| ServiceError::invalid(format!("bad device id: {e}")))?;
    let module = match entry.get("moduleId") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => {
            Some(ModuleId::parse(id).map_err(|e| ServiceError::invalid(format!("bad module id: {e}")))?)
        }
        Some(_) => return Err(ServiceError::invalid("moduleId must be a string")),
    };
    let twin = TwinPatch::from_json(entry)?;
    let now = hub.clock.now();
    let target = Target { device, module };
    let start_twin = |state: &mut DeviceState, _| {
        state
            .endpoint(target.module.as_ref())?
            .twin
            .patch(&twin, now)
            .map(|_| ())
    };
    let done = match &target.module {
        None => hub.put_device(
            DeviceSpec::from_json(entry, &target.device)?,
            &IfMatch::Absent,
            start_twin,
        ),
        Some(id) => hub.put_module(
            ModuleSpec::from_json(entry, &target.device, id)?,
            &IfMatch::Absent,
            start_twin,
        ),
    };
    match done {
        Ok(started) => started.map(|()| Put::Create),
        Err(e)
            if matches!(
                e.code,
                ErrorCode::DeviceAlreadyExists | ErrorCode::ModuleAlreadyExistsOnDevice
            ) =>
        {
            Ok(Put::Replace)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_and_lines_are_read_and_errors_have_lines() {
        assert_eq!(entries("[{\"deviceId\":\"a\"},{\"id\":\"b\"}]").unwrap().len(), 2);
        assert_eq!(
            entries("{\"deviceId\":\"a\"}\n\n{\"id\":\"b\"}\n").unwrap().len(),
            2
        );
        assert_eq!(entries("").unwrap().len(), 0);
        let line = |text: &str| match entries(text).unwrap_err() {
            ImportError::Syntax { line, .. } => line,
            other => panic!("{other}"),
        };
        assert_eq!(line("{\"id\":\"a\"}\n{oops}\n"), 2);
        assert_eq!(line("[\n{\"id\":\"a\"},\n{oops}\n]"), 3);
    }
}
