//! `gfproxy::origin` against origins that behave and origins that do not.

mod bodies;
mod support;
