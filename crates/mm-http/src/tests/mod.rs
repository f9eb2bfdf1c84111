//! Tests: the parsers and writers alone, then the whole service with clients on an Ethernet link in memory.

mod link;

mod bodies;
mod configuration;
mod heads;
mod network;
mod rude;
mod serving;
mod writers;
