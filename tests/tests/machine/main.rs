//! Integration tests that boot machines: sample drivers and real ones, in every privilege mode that this KVM offers.

mod echo_sample;
mod faulty_sample;
mod ioperm_sample;
mod portio_sample;
mod real_drivers;
