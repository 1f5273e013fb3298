//! End-to-end tests of the binary, with servers in process and with real ones.
