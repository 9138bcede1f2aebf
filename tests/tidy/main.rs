//! What a tool can check about the source tree itself.
