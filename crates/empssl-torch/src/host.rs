//! Passes through host memory that libtorch's operators would make several times: gradient descent over lists of tensors
//! here, the largest numbers of a matrix's rows in [`largest`].
//!
//! libtorch's operators would go through the memory once an operator, and through fresh memory for every intermediate
//! result; with more parameters than a cache holds, memory is all that a step costs. The work is divided into pieces of
//! a fixed length, so a result does not depend on the number of threads.
#![expect(unsafe_code, reason = "reads and writes the memory of tensors")]

use std::ops::{Add, Mul, Sub};

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, ShimError};
use crate::lists::Descent;

pub mod largest;

/// Elements of a piece: small enough to divide the work evenly, large enough to make the division free.
const PIECE: usize = 1 << 14;

/// Numbers that the sums of squares are spread over, for the processor's vectors.
const LANES: usize = 16;

/// One parameter and how its gradient is used: as `(gradient + decay * parameter) * scale`.
#[derive(Debug, Clone, Copy)]
pub struct Move<'a> {
    /// Moved in place.
    pub parameter: &'a Tensor,
    /// Read only; of the parameter's sizes and strides.
    pub gradient: &'a Tensor,
    /// The momentum buffer, of the parameter's sizes and strides; renewed in place.
    pub buffer: &'a Tensor,
    /// What is added of the parameter.
    pub decay: f64,
    /// What the sum is multiplied by.
    pub scale: f64,
}

/// The 2-norms of tensors of type `kind`, summed in float64.
///
/// # Errors
/// When a tensor is not on the CPU, not of type `kind` or does not fill its memory; when `kind` is neither float32 nor
/// float64.
pub fn norms(kind: Kind, tensors: &[&Tensor]) -> Result<Vec<f64>, ShimError> {
    match kind {
        Kind::Float => norms_of::<f32>(tensors),
        Kind::Double => norms_of::<f64>(tensors),
        _ => Err(unknown(kind)),
    }
}

/// One step of gradient descent, as [`crate::lists::descend`], for gradients that are scaled on the way.
///
/// # Errors
/// As [`norms`], and when the tensors of a move differ in size or strides or any two written tensors share memory.
pub fn descend(kind: Kind, moves: &[Move<'_>], step: Descent) -> Result<(), ShimError> {
    match kind {
        Kind::Float => descend_in::<f32>(moves, step),
        Kind::Double => descend_in::<f64>(moves, step),
        _ => Err(unknown(kind)),
    }
}

/// The types that are computed in.
trait Real:
    Copy + Send + Sync + PartialOrd + Into<f64> + Add<Output = Self> + Mul<Output = Self> + Sub<Output = Self>
{
    const KIND: Kind;
    fn rounded(value: f64) -> Self;
}

impl Real for f32 {
    const KIND: Kind = Kind::Float;
    fn rounded(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    const KIND: Kind = Kind::Double;
    fn rounded(value: f64) -> Self {
        value
    }
}

fn norms_of<T: Real>(tensors: &[&Tensor]) -> Result<Vec<f64>, ShimError> {
    tensors.iter().try_for_each(|tensor| check_memory::<T>(tensor))?;
    // SAFETY: all are of type T and dense in host memory, as just checked; they are only read in this function.
    let slices: Vec<&[T]> = tensors.iter().map(|tensor| unsafe { ffi::elements(tensor) }).collect();
    let pieces: Vec<(usize, &[T])> = slices
        .iter()
        .enumerate()
        .flat_map(|(index, slice)| slice.chunks(PIECE).map(move |piece| (index, piece)))
        .collect();
    let mut sums = vec![0.0; pieces.len()];
    in_parallel(pieces.iter().zip(&mut sums).collect(), |((_, piece), sum)| *sum = sum_of_squares(piece));
    let mut norms = vec![0.0; tensors.len()];
    pieces.iter().zip(&sums).for_each(|((index, _), sum)| norms[*index] += sum);
    Ok(norms.into_iter().map(f64::sqrt).collect())
}

fn sum_of_squares<T: Real>(values: &[T]) -> f64 {
    let mut sums = [0.0; LANES];
    let rows = values.chunks_exact(LANES);
    let rest: f64 = rows.remainder().iter().map(|&value| value.into() * value.into()).sum();
    for row in rows {
        for (sum, &value) in sums.iter_mut().zip(row) {
            let value: f64 = value.into();
            *sum += value * value;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// The numbers of one move, or a piece of them.
struct Piece<'a, T> {
    parameter: &'a mut [T],
    gradient: &'a [T],
    buffer: &'a mut [T],
    decay: T,
    scale: T,
}

fn descend_in<T: Real>(moves: &[Move<'_>], step: Descent) -> Result<(), ShimError> {
    check_moves::<T>(moves)?;
    let pieces = moves.iter().flat_map(|one| {
        // SAFETY: all are of type T and dense in host memory, and no written tensor shares memory with another of the
        // list, as just checked; nothing else touches them in this function, and tensors do not cross threads by
        // reference.
        let (parameter, gradient, buffer) = unsafe {
            (ffi::elements_mut::<T>(one.parameter), ffi::elements::<T>(one.gradient), ffi::elements_mut(one.buffer))
        };
        let (decay, scale) = (T::rounded(one.decay), T::rounded(one.scale));
        let pieces = parameter.chunks_mut(PIECE).zip(gradient.chunks(PIECE)).zip(buffer.chunks_mut(PIECE));
        pieces.map(move |((parameter, gradient), buffer)| Piece { parameter, gradient, buffer, decay, scale })
    });
    in_parallel(pieces.collect(), |piece| piece.descend(step));
    Ok(())
}

impl<T: Real> Piece<'_, T> {
    fn descend(self, step: Descent) {
        if step.momentum == 0.0 {
            return self.descend_without_momentum(T::rounded(step.lr));
        }
        let (lr, momentum) = (T::rounded(step.lr), T::rounded(step.momentum));
        // The step is `own * gradient + ahead * buffer`.
        let (own, ahead) = if step.nesterov { (T::rounded(1.0), momentum) } else { (T::rounded(0.0), T::rounded(1.0)) };
        for ((p, &g), b) in self.parameter.iter_mut().zip(self.gradient).zip(self.buffer) {
            let scaled = (g + *p * self.decay) * self.scale;
            *b = *b * momentum + scaled;
            *p = *p - (own * scaled + ahead * *b) * lr;
        }
    }

    fn descend_without_momentum(self, lr: T) {
        for (p, &g) in self.parameter.iter_mut().zip(self.gradient) {
            *p = *p - (g + *p * self.decay) * self.scale * lr;
        }
    }
}

/// Calls `work` with every item, on as many threads as libtorch computes with.
fn in_parallel<I: Send>(items: Vec<I>, work: impl Fn(I) + Sync) {
    let threads = (tch::get_num_threads().max(1) as usize).min(items.len().max(1));
    let share = items.len().div_ceil(threads).max(1);
    let mut items = items.into_iter();
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let own: Vec<I> = items.by_ref().take(share).collect();
            let work = &work;
            scope.spawn(move || own.into_iter().for_each(work));
        }
        items.for_each(&work);
    });
}

fn unknown(kind: Kind) -> ShimError {
    ShimError(format!("expected tensors of Float or Double, found {kind:?}"))
}

fn check_moves<T: Real>(moves: &[Move<'_>]) -> Result<(), ShimError> {
    for one in moves {
        let form = |tensor: &Tensor| (tensor.size(), tensor.stride());
        if form(one.parameter) != form(one.gradient) || form(one.parameter) != form(one.buffer) {
            return Err(ShimError("a parameter, its gradient and its buffer differ in size or strides".to_owned()));
        }
        [one.parameter, one.gradient, one.buffer].into_iter().try_for_each(check_memory::<T>)?;
    }
    check_disjoint::<T>(moves)
}

/// Refuses written tensors that share memory with another tensor of the list.
fn check_disjoint<T>(moves: &[Move<'_>]) -> Result<(), ShimError> {
    let range = |tensor: &Tensor, written| {
        let start = tensor.data_ptr() as usize;
        (start, start + tensor.numel() * size_of::<T>(), written)
    };
    let each = |one: &Move<'_>| [range(one.parameter, true), range(one.buffer, true), range(one.gradient, false)];
    let mut ranges: Vec<_> = moves.iter().flat_map(each).filter(|(start, end, _)| start < end).collect();
    ranges.sort_unstable();
    let (mut end, mut written_end) = (0, 0);
    for (start, this_end, written) in ranges {
        if start < written_end || (written && start < end) {
            return Err(ShimError("two of the tensors to be moved share memory".to_owned()));
        }
        end = end.max(this_end);
        written_end = if written { written_end.max(this_end) } else { written_end };
    }
    Ok(())
}

fn check_memory<T: Real>(tensor: &Tensor) -> Result<(), ShimError> {
    if tensor.device() == Device::Cpu && tensor.kind() == T::KIND && is_dense(tensor) {
        return Ok(());
    }
    let (kind, device, size, strides) = (tensor.kind(), tensor.device(), tensor.size(), tensor.stride());
    Err(ShimError(format!(
        "expected a dense tensor of {:?} on the CPU, found {kind:?} on {device:?} of size {size:?} and strides {strides:?}",
        T::KIND
    )))
}

/// Whether the elements fill a piece of memory without gaps and without overlap, in whatever order.
pub fn is_dense(tensor: &Tensor) -> bool {
    let sizes = tensor.size();
    let mut dims: Vec<_> = tensor.stride().into_iter().zip(sizes).filter(|(_, size)| *size != 1).collect();
    dims.sort_unstable();
    let mut filled = 1;
    let mut fits = true;
    for (stride, size) in dims {
        fits &= stride == filled;
        filled *= size;
    }
    fits || tensor.numel() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists;

    /// Numbers without randomness.
    fn wave(size: &[i64], kind: Kind, phase: f64) -> Tensor {
        let n = size.iter().product::<i64>();
        (Tensor::arange(n, (Kind::Double, Device::Cpu)) * 0.37 + phase).sin().view(size).to_kind(kind)
    }

    fn channels_last(tensor: &Tensor) -> Tensor {
        tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    }

    #[test]
    fn norms_are_libtorchs_on_any_number_of_threads_to_the_bit() {
        let tensors = [wave(&[3 * PIECE as i64 + 5], Kind::Float, 0.1), wave(&[7, 3], Kind::Float, 0.5)];
        let tensors = [&tensors[0], &tensors[1], &channels_last(&wave(&[4, 3, 5, 5], Kind::Float, 0.2))];
        let ours = norms(Kind::Float, &tensors).unwrap();
        for (ours, tensor) in ours.iter().zip(tensors) {
            let truth = tensor.to_kind(Kind::Double).norm().double_value(&[]);
            assert!((ours / truth - 1.0).abs() < 1e-14, "{ours} {truth}");
        }
        let before = tch::get_num_threads();
        for threads in 1..4 {
            tch::set_num_threads(threads);
            assert_eq!(norms(Kind::Float, &tensors).unwrap(), ours);
        }
        tch::set_num_threads(before);
        assert_eq!(norms(Kind::Double, &[&Tensor::zeros([0], (Kind::Double, Device::Cpu))]).unwrap(), [0.0]);
    }

    /// The pass through memory against the same step by libtorch's operators.
    #[test]
    fn a_step_is_the_one_of_the_operators() {
        for kind in [Kind::Float, Kind::Double] {
            for (momentum, nesterov) in [(0.9, true), (0.9, false), (0.0, false)] {
                for size in [&[2 * PIECE as i64 + 3][..], &[4, 3, 5, 5]] {
                    let step = Descent { lr: 0.3, momentum, nesterov };
                    let layout = |tensor: Tensor| if size.len() == 4 { channels_last(&tensor) } else { tensor };
                    let [p, g, b] = [0.1, 0.2, 0.3].map(|phase| layout(wave(size, kind, phase)));
                    let (p2, b2) = (p.copy(), b.copy());
                    let scaled = (&g + &p * 0.01) * 0.7;
                    lists::descend(&[&p2], &[&scaled], &[&b2], step).unwrap();
                    let one = Move { parameter: &p, gradient: &g, buffer: &b, decay: 0.01, scale: 0.7 };
                    descend(kind, &[one], step).unwrap();
                    let tolerance = if kind == Kind::Float { 1e-6 } else { 1e-14 };
                    for (ours, truth) in [(&p, &p2), (&b, &b2)] {
                        assert!((ours - truth).abs().max().double_value(&[]) < tolerance, "{kind:?} {step:?} {size:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn memory_that_cannot_be_passed_through_is_refused() {
        let tensor = wave(&[4, 6], Kind::Float, 0.0);
        let step = Descent { lr: 0.1, momentum: 0.9, nesterov: true };
        let refusal = |parameter: &Tensor, gradient: &Tensor, buffer: &Tensor| {
            let one = Move { parameter, gradient, buffer, decay: 0.0, scale: 1.0 };
            descend(Kind::Float, &[one], step).unwrap_err().to_string()
        };
        let other = || tensor.copy();
        assert!(refusal(&tensor, &other(), &tensor).contains("share memory"));
        assert!(refusal(&tensor, &tensor, &other()).contains("share memory"));
        assert!(refusal(&tensor, &other().transpose(0, 1), &other()).contains("differ in size or strides"));
        let gaps = || wave(&[4, 12], Kind::Float, 0.0).slice(1, 0, 12, 2);
        assert!(refusal(&gaps(), &gaps(), &gaps()).contains("expected a dense tensor of Float on the CPU"));
        let double = || tensor.to_kind(Kind::Double);
        assert!(refusal(&double(), &double(), &double()).contains("found Double"));
        assert!(norms(Kind::Half, &[]).unwrap_err().to_string().contains("found Half"));
    }

    #[test]
    fn dense_means_without_gaps_in_any_order() {
        let tensor = wave(&[2, 3, 4, 5], Kind::Float, 0.0);
        assert!(is_dense(&tensor) && is_dense(&channels_last(&tensor)) && is_dense(&tensor.select(0, 1)));
        assert!(
            !is_dense(&tensor.select(3, 1)) && !is_dense(&tensor.select(0, 0).unsqueeze(0).expand([2, 3, 4, 5], false))
        );
        assert!(is_dense(&tensor.narrow(0, 0, 0)) && is_dense(&Tensor::from(1.0)));
    }
}
