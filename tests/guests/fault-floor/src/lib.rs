//! Nothing: all is in the image's `main.rs`. A package needs a target that every build can build.
#![no_std]
