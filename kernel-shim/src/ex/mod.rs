//! The executive: pool.

pub mod lookaside;
pub mod pool;
pub mod pool_api;
