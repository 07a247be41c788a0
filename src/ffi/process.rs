//! The life of the process: `gfproxy_<verb>`.
