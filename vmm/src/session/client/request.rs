//! A client's request, decoded from its chain.

pub use channel::{Incoming, RESULT, Refusal};
