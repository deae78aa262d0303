//! What the long proofs in `src/bin` share. A proof checks its points one after the other. At the end it prints the
//! violations, and its exit code says whether there were any.

use std::process::ExitCode;

use tokio::task::JoinSet;

use crate::Pipeline;

/// A proof that runs.
#[derive(Default)]
pub struct Proof {
    violations: Vec<String>,
}

impl Proof {
    /// Prints one point of the proof. Unless it holds, it is a violation.
    pub fn check(&mut self, holds: bool, says: impl Into<String>) {
        let says = says.into();
        println!("  {} {says}", if holds { "ok    " } else { "MISSED" });
        if !holds {
            self.violations.push(says);
        }
    }

    /// Adds what somebody else has found.
    pub fn add(&mut self, violations: impl IntoIterator<Item = String>) {
        self.violations.extend(violations);
    }

    /// Closes a pipeline and its own servers. It is a violation if a job is open or an invariant is broken.
    pub async fn close(&mut self, pipeline: Pipeline) {
        // `close` panics then; a task keeps the panic from ending the proof.
        let mut closing = JoinSet::new();
        closing.spawn(pipeline.close());
        let closed = closing.join_next().await;
        self.check(
            closed.is_some_and(|closed| closed.is_ok()),
            "the books close: `platen verify` finds nothing",
        );
    }

    /// Prints the violations. The exit code is 1 if there are any.
    pub fn verdict(self) -> ExitCode {
        for violation in &self.violations {
            println!("  VIOLATION {violation}");
        }
        println!("violations: {}", self.violations.len());
        if self.violations.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
