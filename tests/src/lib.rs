//! The harness: real Xen, xl and a Linux dom0 in QEMU, as a library for tests and for people.
