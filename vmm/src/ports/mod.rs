//! Port accesses: decision, mirror of the IOPMs, back ends.
