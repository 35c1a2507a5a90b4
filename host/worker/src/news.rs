//! What the parts of a worker report to [`Orders`](crate::orders::Orders), which
//! talks to the primary.

use skep_core::{AppName, HandlerId};

use crate::validate::Valid;

/// Something that happened beside the requests.
pub(crate) enum News {
    /// A handler was found valid.
    Valid(Valid),
    /// A handler was found not to be.
    Refused {
        handler: HandlerId,
        app: AppName,
        message: String,
    },
    /// Nothing of a handler is left.
    Gone {
        handler: HandlerId,
        /// Instances that it ever made.
        made: u64,
    },
}
