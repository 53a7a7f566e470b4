//! Asks the processor for a cache line before it is needed. The only `unsafe` of the engine.
#![allow(unsafe_code, reason = "the prefetch hint has no safe form")]

/// Hints that the first bytes of `bytes` will be read soon: most items whole. Where there are more, the processor notices
/// that they are read in order.
#[inline(always)]
pub(crate) fn prefetch_front(bytes: &[u8]) {
    const LINE: usize = 64;
    match bytes.first_chunk::<{ 2 * LINE + 1 }>() {
        Some(front) => [0, LINE, 2 * LINE].map(|at| prefetch(&front[at])),
        None => [0, LINE, 2 * LINE].map(|at| bytes.get(at).map_or((), prefetch)),
    };
}

/// Hints that the cache line of `line` will be read soon. Changes nothing but timing.
#[inline(always)]
pub(crate) fn prefetch<T>(line: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint: it accesses no memory the program can observe and cannot fault,
    // and the address comes from a live reference.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above; `prfm` is a hint.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) std::ptr::from_ref(line),
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = line;
}
