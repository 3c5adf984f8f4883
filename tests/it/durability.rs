//! Nothing is lost or counted twice, whatever fails and whenever it stops.

mod resume;
mod survives;
