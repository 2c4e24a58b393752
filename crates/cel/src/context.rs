//! What one evaluation carries along: its cost budget.

use crate::error::EvalError;

/// The state of one evaluation that functions may use.
#[derive(Debug)]
pub struct Context {
    budget: u64,
}

impl Context {
    pub(crate) fn new(budget: u64) -> Self {
        Self { budget }
    }

    /// What is left to spend.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Spends some of the budget.
    ///
    /// # Errors
    /// The budget does not hold that much.
    #[inline]
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => {
                self.budget = 0;
                Err(EvalError::BudgetExceeded)
            }
        }
    }
}
