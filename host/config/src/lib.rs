//! TOML to a checked fleet specification: every problem at once, each with its place and a hint.
