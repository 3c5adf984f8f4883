//! The HTTP API: who may ask, what OpenAI's clients read, what is refused, and what a client that leaves costs.

mod access;
mod clients;
mod critique;
mod loading;
mod refusals;
pub mod server;
mod texts;
mod training;
