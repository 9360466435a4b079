//! Integration tests that boot machines: sample drivers and real ones, in every privilege mode that this KVM offers.

#![expect(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions with #[test] as such"
)]

mod channel;
mod channel_ends;
mod channel_load;
mod channel_memory;
mod channel_processes;
mod client_examples;
mod device_models;
mod echo_sample;
mod edu_device;
mod external_models;
mod faulty_sample;
mod ioperm_sample;
mod iopm_property;
mod irq_sample;
mod kmdf_sample;
mod msr_sample;
mod pci_models;
mod pnp_sample;
mod portio_sample;
mod real_drivers;
mod real_hardware;
mod real_port;
mod two_drivers;
mod vfio;
