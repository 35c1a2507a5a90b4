//! Which app answers a request: host and path, most specific wins.
use serde::{Deserialize, Serialize};
/// One route of an app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoutePattern;
