//! The kernel proper: IRQL, spin locks, DPCs, timers, events, bugchecks, IOPMs.

pub mod bugcheck;
pub mod data;
