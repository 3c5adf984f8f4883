//! Zeros that the system gives page by page, as they are first written, in huge pages if it has them.
//!
//! An allocator clears what it has used before, and rounds each of many large blocks up: a cache of keys and values would be in
//! memory before it is used, and take more than its plan.

use super::huge_pages::advise_huge_pages;
use bytemuck::Pod;
use memmap2::MmapMut;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Elements that begin as zeros. What is never written takes no memory.
#[derive(Debug)]
pub(crate) struct LazyZeros<T> {
    pages: MmapMut,
    bytes: usize,
    _elements: PhantomData<T>,
}

impl<T: Pod> LazyZeros<T> {
    /// `count` zeros.
    ///
    /// # Errors
    /// Where the system has no address space for them.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = MmapMut::map_anon(bytes.max(1))?;
        advise_huge_pages(&pages);
        Ok(Self { pages, bytes, _elements: PhantomData })
    }
}

impl<T: Pod> Deref for LazyZeros<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.pages[..self.bytes])
    }
}

impl<T: Pod> DerefMut for LazyZeros<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.pages[..self.bytes])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Resident memory of this process, in bytes.
    #[cfg(target_os = "linux")]
    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0) * rustix::param::page_size()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_not_written_takes_no_memory() {
        let (before, count) = (resident(), 1 << 30);
        let mut zeros = LazyZeros::<f32>::new(count).unwrap();
        zeros[count - 1] = 1.0;
        assert!(zeros.len() == count && zeros[count / 2] == 0.0 && zeros[count - 1] == 1.0);
        // Other tests allocate meanwhile, and a page may be huge.
        assert!(resident() < before + (1 << 30), "{} of 4 GiB", resident() - before);
    }

    #[test]
    fn more_than_there_is_address_space_for_is_an_error() {
        assert!(LazyZeros::<f32>::new(usize::MAX / 8).is_err() && LazyZeros::<f32>::new(usize::MAX).is_err());
    }

    #[test]
    fn none_are_none() {
        assert!(LazyZeros::<u32>::new(0).unwrap().is_empty());
    }
}
