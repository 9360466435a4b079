//! The hardware abstraction layer: ports, registers, buses, DMA.

pub mod bus;
pub mod bus_data;
pub mod dma;
pub mod port;
pub mod register;
