//! Proof on real processes: the harness and the suites that drive the skep binary.
