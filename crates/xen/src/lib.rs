//! Not written yet.
#![cfg_attr(not(test), no_std)]
