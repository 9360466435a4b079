//! The hardware abstraction layer: ports, registers, buses.

pub mod bus;
pub mod port;
pub mod register;
