//! Verdicts are those of the judge that was asked, in both orders, here or on a server.

mod judges;
mod real_server;
mod remote;
mod remote_cases;
