//! Members in networks of their own, cut off by dropping what is on its way: silence, where loopback only knows
//! refusal. Needs root, `ip` and `nft`; without them the tests say so and pass, in the gate they fail.

mod crowd;
mod failover;
mod network;
