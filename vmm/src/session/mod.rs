//! A running driver: requests, processes, commands.
