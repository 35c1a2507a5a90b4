//! Lists in the documents that the code must not outgrow.

mod records;
