//! What may be concluded from silence.
