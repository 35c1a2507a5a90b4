//! The primary process: owns the sockets, supervises workers, answers the operator.
