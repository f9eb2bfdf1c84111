//! The engine against a world of clients, a grant table as Xen has it, and frames that carry bytes.

mod check;
mod hostile;
mod model;
mod plain;
mod simulation;
mod world;
