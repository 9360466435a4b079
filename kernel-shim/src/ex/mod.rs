//! The executive: pool.

pub mod pool;
pub mod pool_api;
