//! A machine for the unit tests: shared pages in ordinary memory, no guest.
