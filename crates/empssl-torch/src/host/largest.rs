//! The largest numbers of each row of a matrix, with their columns, taken from the matrix block by block.
//!
//! A product of matrices can be handed over piece by piece while it is still in the cache, so that it never lies in
//! memory as a whole. Almost every number is smaller than what its row has kept already, and one comparison is all that
//! it costs.

use std::cmp::Ordering;

use tch::{Kind, Tensor};

use super::{Real, check_memory, in_parallel, unknown};
use crate::ffi::{self, ShimError};

/// Numbers that are compared before the first of them is looked at, for the processor's vectors.
const AT_ONCE: usize = 32;

/// Numbers kept beyond k before the smallest are dropped, at least; it spares sorting for small k.
const SPARE: usize = 64;

/// What is ranked in place of a number `p` of row i and column j of a block:
/// `min(p * row_factors[i] * column_factors[j] + row_terms[i] + column_terms[j], at_most)`.
#[derive(Debug, Clone, Copy)]
pub struct Adjustment<'a> {
    /// `[rows]`
    pub row_factors: &'a Tensor,
    /// `[rows]`
    pub row_terms: &'a Tensor,
    /// `[columns of the block]`
    pub column_factors: &'a Tensor,
    /// `[columns of the block]`
    pub column_terms: &'a Tensor,
    /// What larger numbers become.
    pub at_most: f64,
}

/// A number and its column in the whole matrix.
pub type Entry = (f64, usize);

/// The k largest numbers of each row of a matrix whose columns arrive in blocks, from the left.
///
/// Of equal numbers the ones in the first columns are kept. A NaN counts as the least of all numbers.
#[derive(Debug)]
pub struct Largest {
    k: usize,
    n_columns: usize,
    rows: Vec<Row>,
}

impl Largest {
    /// For a matrix of `n_rows` rows.
    pub fn new(n_rows: usize, k: usize) -> Self {
        Self { k, n_columns: 0, rows: (0..n_rows).map(|_| Row::new()).collect() }
    }

    /// Looks through the next columns of the matrix, a `block` `[rows, columns]`.
    ///
    /// # Errors
    /// When the block or a tensor of the adjustment is not contiguous on the CPU and of the block's type, float32 or
    /// float64, or not of the right size.
    pub fn add(&mut self, block: &Tensor, adjustment: &Adjustment<'_>) -> Result<(), ShimError> {
        match block.kind() {
            Kind::Float => self.add_in::<f32>(block, adjustment),
            Kind::Double => self.add_in::<f64>(block, adjustment),
            kind => Err(unknown(kind)),
        }
    }

    fn add_in<T: Real>(&mut self, block: &Tensor, adjustment: &Adjustment<'_>) -> Result<(), ShimError> {
        let (n_rows, n_columns) = sizes(block, self.rows.len())?;
        let [row_factors, row_terms] =
            [adjustment.row_factors, adjustment.row_terms].map(|each| numbers::<T>(each, n_rows));
        let [factors, terms] =
            [adjustment.column_factors, adjustment.column_terms].map(|each| numbers::<T>(each, n_columns));
        let (row_factors, row_terms, factors, terms) = (row_factors?, row_terms?, factors?, terms?);
        let values = numbers::<T>(block, n_rows * n_columns)?;
        let (at_most, first, k) = (T::rounded(adjustment.at_most), self.n_columns, self.k);
        self.n_columns += n_columns;
        if n_columns == 0 || k == 0 {
            return Ok(());
        }
        let rows = self.rows.iter_mut().zip(values.chunks(n_columns)).zip(row_factors.iter().zip(row_terms));
        in_parallel(rows.collect(), |((row, values), (&factor, &term))| {
            row.look_through(&Columns { values, factors, terms, factor, term, at_most, first }, k);
        });
        Ok(())
    }

    /// For each row its min(k, columns) largest numbers, largest first.
    pub fn into_rows(self) -> impl Iterator<Item = Vec<Entry>> {
        let (k, n_columns) = (self.k, self.n_columns);
        self.rows.into_iter().map(move |row| row.finish(k.min(n_columns)))
    }
}

/// One row of a block, and how its numbers are adjusted.
struct Columns<'a, T> {
    values: &'a [T],
    factors: &'a [T],
    terms: &'a [T],
    factor: T,
    term: T,
    at_most: T,
    /// The column of the first number in the whole matrix.
    first: usize,
}

impl<T: Real> Columns<'_, T> {
    fn adjusted(&self, column: usize) -> T {
        let number = self.values[column] * self.factor * self.factors[column] + self.term + self.terms[column];
        // Written so that NaN stays NaN.
        if number > self.at_most { self.at_most } else { number }
    }
}

/// What a row has kept.
#[derive(Debug)]
struct Row {
    kept: Vec<Entry>,
    /// The least number that is worth keeping is larger than this.
    bar: f64,
}

impl Row {
    fn new() -> Self {
        Self { kept: Vec::new(), bar: f64::NEG_INFINITY }
    }

    fn look_through<T: Real>(&mut self, columns: &Columns<'_, T>, k: usize) {
        let mut bar = T::rounded(self.bar);
        for start in (0..columns.values.len()).step_by(AT_ONCE) {
            let end = (start + AT_ONCE).min(columns.values.len());
            if !(start..end).fold(false, |any, column| any | (columns.adjusted(column) > bar)) {
                continue;
            }
            for column in start..end {
                let number = columns.adjusted(column);
                if number > bar {
                    self.keep((number.into(), columns.first + column), k);
                    bar = T::rounded(self.bar);
                }
            }
        }
    }

    fn keep(&mut self, entry: Entry, k: usize) {
        self.kept.push(entry);
        if self.kept.len() >= k + k.max(SPARE) {
            self.kept.select_nth_unstable_by(k - 1, larger_first);
            self.kept.truncate(k);
            self.bar = self.kept[k - 1].0;
        }
    }

    /// The `count` largest in order; where fewer were larger than nothing, the first of the columns that are left.
    fn finish(mut self, count: usize) -> Vec<Entry> {
        self.kept.sort_unstable_by(larger_first);
        self.kept.truncate(count);
        let mut column = 0;
        while self.kept.len() < count {
            if self.kept.iter().all(|&(_, kept)| kept != column) {
                self.kept.push((f64::NEG_INFINITY, column));
            }
            column += 1;
        }
        self.kept
    }
}

fn larger_first(a: &Entry, b: &Entry) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

fn sizes(block: &Tensor, n_rows: usize) -> Result<(usize, usize), ShimError> {
    match block.size()[..] {
        [rows, columns] if rows as usize == n_rows => Ok((n_rows, columns as usize)),
        ref found => Err(ShimError(format!("expected a block of {n_rows} rows, found one of size {found:?}"))),
    }
}

/// The numbers of a contiguous tensor in host memory.
fn numbers<T: Real>(tensor: &Tensor, count: usize) -> Result<&[T], ShimError> {
    check_memory::<T>(tensor)?;
    if !tensor.is_contiguous() || tensor.numel() != count {
        let (size, strides) = (tensor.size(), tensor.stride());
        return Err(ShimError(format!(
            "expected {count} contiguous numbers, found a tensor of size {size:?} and strides {strides:?}"
        )));
    }
    // SAFETY: of type T and dense in host memory, as just checked; this module only reads, and lets go before it returns.
    Ok(unsafe { ffi::elements(tensor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Numbers without randomness, many of them equal.
    fn matrix(n_rows: i64, n_columns: i64, kind: Kind) -> Tensor {
        let wave = (Tensor::arange(n_rows * n_columns, (Kind::Double, Device::Cpu)) * 12.9898).sin();
        (wave * 50.0).round().view([n_rows, n_columns]).to_kind(kind)
    }

    fn filled(count: i64, value: f64, like: &Tensor) -> Tensor {
        Tensor::full([count], value, (like.kind(), Device::Cpu))
    }

    /// The largest of a matrix whose columns come in blocks of `width`, without an adjustment.
    fn largest(matrix: &Tensor, k: usize, width: i64) -> Vec<Vec<Entry>> {
        let mut largest = Largest::new(matrix.size()[0] as usize, k);
        let rows = [1.0, 0.0].map(|value| filled(matrix.size()[0], value, matrix));
        for block in matrix.split(width, 1) {
            let columns = [1.0, 0.0].map(|value| filled(block.size()[1], value, matrix));
            let [row_factors, row_terms] = [&rows[0], &rows[1]];
            let [column_factors, column_terms] = [&columns[0], &columns[1]];
            let at_most = f64::INFINITY;
            let adjustment = Adjustment { row_factors, row_terms, column_factors, column_terms, at_most };
            largest.add(&block.contiguous(), &adjustment).unwrap();
        }
        largest.into_rows().collect()
    }

    /// The same by sorting whole rows; a stable sort keeps equal numbers in the order of their columns.
    fn sorted(matrix: &Tensor, k: usize) -> Vec<Vec<Entry>> {
        let row = |index: i64| {
            let row: Vec<f64> = Vec::try_from(matrix.get(index).to_kind(Kind::Double)).unwrap();
            let mut entries: Vec<Entry> = row.into_iter().zip(0..).collect();
            entries.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap());
            entries.truncate(k);
            entries
        };
        (0..matrix.size()[0]).map(row).collect()
    }

    #[test]
    fn blocks_of_any_width_give_what_sorting_gives_ties_included() {
        for kind in [Kind::Float, Kind::Double] {
            let matrix = matrix(7, 413, kind);
            for k in [1, 5, 64, 100, 413, 1000] {
                for width in [1, 31, 32, 200, 413] {
                    assert_eq!(largest(&matrix, k, width), sorted(&matrix, k), "{kind:?}, k {k}, width {width}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_ranked_as_adjusted() {
        let block = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]);
        let [a, b, c, d] =
            [&[1.0f32, -1.0][..], &[0.5, 0.0], &[4.0, 1.0, -1.0], &[0.0, 5.0, 1.0]].map(Tensor::from_slice);
        let adjustment =
            Adjustment { row_factors: &a, row_terms: &b, column_factors: &c, column_terms: &d, at_most: 6.0 };
        let mut largest = Largest::new(2, 3);
        largest.add(&block, &adjustment).unwrap();
        let rows: Vec<_> = largest.into_rows().collect();
        // Row 0: 4.5, 7.5 cut to 6, -1.5. Row 1: -16, 0, 7 cut to 6.
        assert_eq!(rows, [[(6.0, 1), (4.5, 0), (-1.5, 2)], [(6.0, 2), (0.0, 1), (-16.0, 0)]]);
    }

    #[test]
    fn what_is_not_a_number_comes_last_and_still_fills_the_places() {
        let (nan, least) = (f64::NAN, f64::NEG_INFINITY);
        let matrix = Tensor::from_slice(&[nan, 2.0, nan, least, 3.0]).view([1, 5]);
        assert_eq!(largest(&matrix, 4, 2), [[(3.0, 4), (2.0, 1), (least, 0), (least, 2)]]);
        assert_eq!(largest(&matrix, 0, 2), [[]]);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (matrix, before) = (matrix(33, 500, Kind::Float), tch::get_num_threads());
        let of_threads = |threads| {
            tch::set_num_threads(threads);
            largest(&matrix, 9, 64)
        };
        assert_eq!(of_threads(1), of_threads(3));
        tch::set_num_threads(before);
    }

    #[test]
    fn blocks_and_adjustments_that_do_not_fit_are_refused() {
        let block = matrix(2, 3, Kind::Float);
        let (two, three) = (filled(2, 1.0, &block), filled(3, 1.0, &block));
        let refusal = |block: &Tensor, columns: &Tensor| {
            let (row_factors, row_terms, at_most) = (&two, &two, 1.0);
            let adjustment =
                Adjustment { row_factors, row_terms, column_factors: columns, column_terms: columns, at_most };
            Largest::new(2, 1).add(block, &adjustment).unwrap_err().to_string()
        };
        assert!(refusal(&block.get(0), &three).contains("a block of 2 rows, found one of size [3]"));
        assert!(refusal(&matrix(3, 2, Kind::Float).tr(), &three).contains("6 contiguous numbers"));
        assert!(refusal(&block, &two).contains("3 contiguous numbers, found a tensor of size [2]"));
        assert!(refusal(&block, &three.to_kind(Kind::Double)).contains("of Float on the CPU, found Double"));
        assert!(refusal(&block.to_kind(Kind::Half), &three).contains("found Half"));
    }
}
