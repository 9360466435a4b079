//! The virtual machine: KVM, guest memory, page tables, vCPU, exits.
