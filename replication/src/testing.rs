//! Two nodes in virtual time.
