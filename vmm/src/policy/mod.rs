//! The owner's policy: which ports and physical ranges a driver may touch.
