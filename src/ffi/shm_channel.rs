//! The channel as a C library of its own: `shm_channel_<object>_<verb>`.
