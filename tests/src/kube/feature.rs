//! What kube-apiserver concludes from a server's version (kube-apiserver.md §8).

/// Whether progress may be asked for: 3.4.31 and later, but not 3.5.0 to 3.5.12; not where the
/// version cannot be read.
pub fn has_progress_requests(version: &str) -> bool {
    match parts(version) {
        Some((3, 5, patch)) => patch >= 13,
        Some(version) => version >= (3, 4, 31),
        None => false,
    }
}

/// Major, minor and patch; what follows `-` or `+` does not count.
fn parts(version: &str) -> Option<(u64, u64, u64)> {
    let plain = version.split(['-', '+']).next()?;
    let mut numbers = plain.split('.').map(|number| number.parse().ok());
    let parts = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_releases_began_it() {
        for old in ["3.4.30", "3.5.0", "3.5.12", "0.9.1", "3.6", "3.6.x", "", "v3.6.0"] {
            assert!(!has_progress_requests(old), "{old}");
        }
        for new in ["3.4.31", "3.5.13", "3.5.16", "3.6.0", "3.7.0-beta.1", "4.0.0"] {
            assert!(has_progress_requests(new), "{new}");
        }
    }
}
