//! What the tests share: models and golden numbers, a node on the tiny model, a rigged server, a disk, other programs.

pub mod models;
pub mod mounted;
pub mod node;
pub mod programs;
pub mod server;
