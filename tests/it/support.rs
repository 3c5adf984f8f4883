//! What the tests share: models and golden numbers, a node on the tiny model, a rigged server.

pub mod models;
pub mod node;
pub mod server;
