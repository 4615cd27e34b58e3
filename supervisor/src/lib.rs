//! Prepares, starts, watches and cleans up virtual machines.
