//! Nobody is accused of a state that differs from the others': no fault of a run makes one differ, so the
//! continuous comparison must find none (ours: decision D16, hazard B10).

use super::{Glance, Invariant, name};

/// Needs no memory.
pub struct Trust;

impl Invariant for Trust {
    fn look(&mut self, members: &[Glance]) -> Result<(), String> {
        match members.iter().find(|glance| glance.accuses) {
            Some(glance) => Err(format!("{} says that a state is wrong", name(glance.member))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::glance;
    use super::*;

    #[test]
    fn an_accusation_is_found() {
        assert!(Trust.look(&[glance(0), glance(1)]).is_ok());
        assert!(Trust.look(&[glance(0), Glance { accuses: true, ..glance(1) }]).is_err());
    }
}
