//! Makes the syncs of sled 0.34 real: interposes `sync_file_range` by `fdatasync`.
//!
//! sled follows each write by `sync_file_range`, which neither flushes the device's cache nor writes the
//! file's length; one power cut then loses everything that was acknowledged. A function of that name in the
//! program itself wins over the C library's, so every binary that calls [`link`] gets real syncs. Whether
//! that worked is for the caller to test, with [`intercepted`]: a store must refuse to run without it.
//!
//! The only crate of the workspace with `unsafe`. It knows nothing of sled or of kvd.

use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicU64, Ordering};

static INTERCEPTED: AtomicU64 = AtomicU64::new(0);

// SAFETY: the declaration is POSIX's: `int fdatasync(int fildes)`.
unsafe extern "C" {
    // SAFETY: any number is a legal argument; one that is no open file yields EBADF.
    safe fn fdatasync(fd: c_int) -> c_int;
}

/// Stands in for the C library's function of this name: makes the whole file's data durable, whatever range
/// and flags were asked for. Returns 0, or -1 with `errno` set, as the original does.
// SAFETY: the signature is the C library's (`off64_t` is 64 bits wide, `flags` unsigned), and what is done
// includes all that the original promises. No other symbol of this name is linked statically.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    INTERCEPTED.fetch_add(1, Ordering::Relaxed);
    fdatasync(fd)
}

/// How many calls were intercepted since the process started.
pub fn intercepted() -> u64 {
    INTERCEPTED.load(Ordering::Relaxed)
}

/// Ties the interposer into the calling binary; without a reference the linker may leave it out.
pub fn link() {
    #[cfg(target_os = "linux")]
    std::hint::black_box(sync_file_range as extern "C" fn(c_int, i64, i64, c_uint) -> c_int);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_descriptor_is_an_error_and_is_counted() {
        let before = intercepted();
        assert_eq!(sync_file_range(-1, 0, 0, 0), -1);
        assert!(intercepted() > before);
    }
}
