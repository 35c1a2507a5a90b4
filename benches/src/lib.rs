//! Criterion benchmarks of the small parts: `cargo bench -p skep-benches`.
//!
//! Each file below `benches/` measures one part that every request or every
//! start passes through. Whole servers are measured by `cargo xtask compare`,
//! whose results are in `RESULTS.md`.
#![forbid(unsafe_code)]
