//! Lends the elements of a tensor as a slice when they lie in the CPU's memory, one after another.

use candle_core::{Storage, StorageRef, Tensor, WithDType};
use std::marker::PhantomData;
use std::ops::{Deref, Range};

/// The elements of one tensor; dereferences to `&[T]` and holds the storage's read lock meanwhile.
pub(crate) struct Slice<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    element: PhantomData<T>,
}

/// The elements of `tensor`, or `None` unless it is on the CPU, of type `T`, contiguous.
pub(crate) fn of<T: WithDType>(tensor: &Tensor) -> Option<Slice<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(cpu) if cpu.as_slice::<T>().is_ok() => {}
        _ => return None,
    }
    Some(Slice { storage, range: start..end, element: PhantomData })
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(cpu) => cpu.as_slice::<T>().map_or(&[], |all| &all[self.range.clone()]),
            // `of` lets no other storage in.
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn lends_only_contiguous_tensors_of_the_type() -> candle_core::Result<()> {
        let t = Tensor::new(&[[1f32, 2., 3.], [4., 5., 6.]], &Device::Cpu)?;
        assert_eq!(of::<f32>(&t).as_deref(), Some(&[1., 2., 3., 4., 5., 6.][..]));
        assert_eq!(of::<f32>(&t.narrow(0, 1, 1)?).as_deref(), Some(&[4., 5., 6.][..]));
        assert!(of::<f32>(&t.t()?).is_none());
        assert!(of::<f64>(&t).is_none());
        Ok(())
    }
}
