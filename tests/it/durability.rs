//! Nothing is lost or counted twice, whatever fails and whenever it stops.

mod killed;
mod read_only;
mod resume;
mod survives;
