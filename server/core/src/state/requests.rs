//! Requests with an id: applied once, answered as often as they are sent ([`crate::sessions`]).

use super::State;
use crate::codec::{decode_outcome, encode_outcome};
use crate::command::Command;
use crate::ids::{LogId, RequestId};
use crate::outcome::{Applied, Fatal, Rejection};
use crate::sessions::Answer;

impl State {
    /// Applies a request unless it was applied before. Memory is asked before alarms are: what was applied
    /// stays so, whatever was raised since.
    pub(super) fn once(
        &mut self,
        at: LogId,
        id: RequestId,
        command: &Command,
    ) -> Result<Applied, Fatal> {
        match self.sessions.begin(id, at.index, &mut self.rows) {
            Ok(None) => {
                // Remembered on every member, so every member builds it.
                let done = self.perform(at.index, command, true)?;
                let applied = self.told(at, done);
                if applied.outcome.is_ok() {
                    let answer = encode_outcome(&applied);
                    self.sessions.remember(id, answer, applied.revision, &mut self.rows);
                }
                Ok(applied)
            }
            Ok(Some(Answer::Kept(answer))) => {
                let first = decode_outcome(answer)
                    .map_err(|error| Fatal::Invariant(format!("a remembered answer: {error}")))?;
                Ok(Applied { log_id: at, repeated: true, ..first })
            }
            Ok(Some(Answer::NotKept(revision))) => {
                let refused = self.told(at, Rejection::AnswerNotKept { revision }.into());
                Ok(Applied { revision, repeated: true, ..refused })
            }
            Err(rejection) => Ok(self.told(at, rejection.into())),
        }
    }
}
