//! `origin` against origins that behave and origins that do not.

mod bodies;
mod coalesce;
mod faults;
mod kept;
mod limits;
mod nginx;
mod resume;
mod signals;
mod statuses;
mod support;
