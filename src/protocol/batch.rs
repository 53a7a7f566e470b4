//! Requests for the engine that are decoded together: what they ask, and how each is to be answered.

use arrayvec::ArrayVec;

use super::Form;
use crate::command::Command;

/// Commands and their forms, in the order of the requests.
#[derive(Debug, Default)]
pub struct Batch<'b> {
    commands: ArrayVec<Command<'b>, { Batch::MOST }>,
    forms: ArrayVec<Form<'b>, { Batch::MOST }>,
}

impl<'b> Batch<'b> {
    /// Requests that fit: enough for the engine to hide memory latency.
    pub const MOST: usize = 32;

    /// No request yet.
    #[inline]
    pub fn new() -> Self {
        Self { commands: ArrayVec::new(), forms: ArrayVec::new() }
    }

    /// How many there are.
    #[inline]
    pub const fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// One more, behind the others. There must be room.
    #[inline(always)]
    pub fn push(&mut self, command: Command<'b>, form: Form<'b>) {
        self.commands.push(command);
        self.forms.push(form);
    }

    /// What is asked.
    #[inline]
    pub fn commands(&self) -> &[Command<'b>] {
        &self.commands
    }

    /// How it is answered.
    #[inline]
    pub fn forms(&self) -> &[Form<'b>] {
        &self.forms
    }
}
