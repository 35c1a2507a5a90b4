//! Criterion benchmarks of the small parts.
