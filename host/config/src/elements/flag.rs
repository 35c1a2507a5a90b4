//! `true` or `false`.

use crate::document::Entry;
use crate::report::Reported;

pub(crate) fn read(entry: &Entry<'_>) -> Result<bool, Reported> {
    entry
        .as_bool()
        .ok_or_else(|| entry.wrong_type("true or false", "true"))
}
