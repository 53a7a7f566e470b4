//! One follower and its stream, on both ends.
