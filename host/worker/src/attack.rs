//! A worker that was taken over: for tests, and only with the feature
//! `attacker`.
//!
//! An app's `config` names the attack (`attack`) and what it is aimed at
//! (`attack-pid`, `attack-path`, `attack-port`, `attack-text`). It is made once the worker is
//! confined and serves, in the place where an escape from wasm would run.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use skep_core::LogLevel;
use skep_sys::attack::{self, Result, Target};

use crate::log::Log;

static ORDERED: OnceLock<(String, Target)> = OnceLock::new();

/// Remembers the attack that an app's configuration asks for.
pub(crate) fn order(config: &BTreeMap<String, String>) {
    let Some(name) = config.get("attack") else {
        return;
    };
    let number = |key: &str| config.get(key).and_then(|value| value.parse().ok());
    let target = Target {
        pid: number("attack-pid").unwrap_or_default(),
        path: config.get("attack-path").cloned().unwrap_or_default(),
        port: number("attack-port")
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or_default(),
        text: config.get("attack-text").cloned().unwrap_or_default(),
    };
    ORDERED.get_or_init(|| (name.clone(), target));
}

/// Makes the attack, if there is one, and says what came of it.
pub(crate) fn make(log: &Log) {
    let Some((name, target)) = ORDERED.get() else {
        return;
    };
    let result = attack::attack(name, target);
    let (word, detail) = match &result {
        Result::Succeeded(what) => ("succeeded", what.as_str()),
        Result::Refused(error) => ("refused", error.as_str()),
        Result::Unknown => ("unknown", ""),
    };
    if let Some(record) = log.record(LogLevel::Error, "attack.result") {
        let record = record.text("attack", name).text("result", word);
        log.write(record.text("detail", detail));
    }
}
