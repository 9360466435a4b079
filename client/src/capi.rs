//! The C functions of include/ringfence.h.
