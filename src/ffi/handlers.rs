//! The handlers that a program registers with `GFS_WORKER_FUNC`.
