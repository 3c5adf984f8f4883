//! What people look at: the records of episodes, the command that shows them, and the node's page in a real browser.

mod browser;
mod command;
mod records;
mod routes;
