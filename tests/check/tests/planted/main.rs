//! Planted violations: each is found, and by the promise that it breaks.

mod leases;
mod locks;
mod order;
mod tale;
mod time;
mod watches;
