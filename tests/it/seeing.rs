//! What operators look at: dashboards, rules, alerts, the stack that `monitor` writes, figures, reports.

mod alert_cases;
mod faults;
mod files;
mod live;
mod reports;
mod rules;
mod trackers;
