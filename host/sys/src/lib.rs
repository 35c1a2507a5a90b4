//! Every system call and every unsafe block of skep's host.
