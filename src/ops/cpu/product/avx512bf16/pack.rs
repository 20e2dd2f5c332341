//! Panels of the right factor: from bf16 or 4 bits, transposed or not.

use super::super::kernel::WIDTH;
use super::super::source::{Source, Values};
use super::{PAIR, is_dense};
use crate::ops::cpu::decode::Blocks;
use half::bf16;
use std::arch::x86_64::*;

/// `B = Wᵀ` for 32 rows of W.
///
/// # Safety
/// The processor has the instructions; W has 32 rows from `row` on, for 4 bits of whole groups of 32 columns, and the panel
/// has `panel_len(w.cols)` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn rows(w: &Source<bf16>, row: usize, panel: &mut [bf16]) {
    // Two groups of columns that share a block share its table.
    let twos = match w.values {
        Values::Blocks(blocks) if blocks.blocksize().is_multiple_of(64) && w.stride.is_multiple_of(64) => {
            w.cols / 64 * 64
        }
        _ => 0,
    };
    // SAFETY: promised by the caller; for 4 bits the columns are whole groups, and where there are two, they share a block.
    unsafe {
        for column in (0..twos).step_by(64) {
            groups_of_rows::<2>(w, [row, column], panel);
        }
        for column in (twos..w.cols).step_by(32) {
            groups_of_rows::<1>(w, [row, column], panel);
        }
    }
}

/// [`rows`] for the N groups of 32 columns from `column` on, of which the last may have fewer in a dense W.
///
/// # Safety
/// As for it; in 4 bits the columns exist, and share a block in each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn groups_of_rows<const N: usize>(w: &Source<bf16>, [row, column]: [usize; 2], panel: &mut [bf16]) {
    let to = panel.as_mut_ptr();
    let width = (w.cols - column).min(32 * N);
    for half in 0..2 {
        let mut groups = [[_mm512_setzero_si512(); 16]; N];
        for i in 0..16 {
            let first = (row + 16 * half + i) * w.stride + column;
            fetch(w, first + WIDTH * w.stride);
            match w.values {
                Values::Dense(values) => {
                    for (j, group) in groups.iter_mut().enumerate() {
                        // SAFETY: as many elements lie in a row of W.
                        group[i] = unsafe { load_some(values.as_ptr().add(first + 32 * j), width - 32 * j) };
                    }
                }
                Values::Blocks(blocks) => {
                    let table = table(blocks, blocks.block_of(first));
                    for (j, group) in groups.iter_mut().enumerate() {
                        // SAFETY: 32 elements lie in a row of W; rows, and so groups of columns, start at multiples of 32.
                        group[i] = unsafe { look_up(blocks, table, first + 32 * j) };
                    }
                }
            }
        }
        for (j, rows) in groups.into_iter().enumerate() {
            let count = (width - 32 * j).div_ceil(2);
            for (p, pairs) in transposed(rows).into_iter().enumerate().take(count) {
                // SAFETY: the pair is inside the panel, since its first column is W's.
                unsafe { _mm512_storeu_si512(to.add((column / 2 + 16 * j + p) * PAIR + half * 32).cast(), pairs) };
            }
        }
    }
}

/// Asks for the cache line of element `at`, which need not exist, ahead of its use.
#[inline(always)]
fn fetch(w: &Source<bf16>, at: usize) {
    let line: *const i8 = match w.values {
        Values::Dense(values) => values.as_ptr().wrapping_add(at).cast(),
        Values::Blocks(blocks) => blocks.packed().as_ptr().wrapping_add(at / 2).cast(),
    };
    // SAFETY: every x86-64 processor has the instruction, and it may point anywhere.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
}

/// `B = W` for 32 columns of W, or as many as there are in a dense one.
///
/// # Safety
/// The processor has the instructions; W has column `column`, for 4 bits a whole group from there on, and the panel has
/// `panel_len(w.rows)` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn columns(w: &Source<bf16>, column: usize, panel: &mut [bf16]) {
    /// Where element i of a pair of rows comes from: 0 to 31 for the first row, 32 to 63 for the second.
    const fn turns(from: i16) -> [i16; 32] {
        let mut turns = [0; 32];
        let mut i = 0;
        while i < 32 {
            turns[i as usize] = from + i / 2 + 32 * (i % 2);
            i += 1;
        }
        turns
    }
    const TURNS: [[i16; 32]; 2] = [turns(0), turns(16)];
    // SAFETY: each array has 32 elements of 16 bits.
    let [first_turns, second_turns] = unsafe { TURNS.map(|turns| _mm512_loadu_si512(turns.as_ptr().cast())) };
    let read = |row: usize| {
        let first = row * w.stride + column;
        match w.values {
            // SAFETY: as many elements lie in row `row` of W.
            Values::Dense(values) => unsafe { load_some(values.as_ptr().add(first), w.cols - column) },
            // SAFETY: 32 elements do, and `first` is a multiple of 32.
            Values::Blocks(blocks) => unsafe { decode(blocks, first) },
        }
    };
    let mut to = panel.as_mut_ptr();
    // A cache line has a row's part of this panel and, in 4 bits, of the next three, so each of four asks for the next lines
    // of a quarter of the rows.
    let panels = if is_dense(w) { 1 } else { 4 };
    for row in (0..w.rows).step_by(2) {
        for row in [row, row + 1] {
            if row % panels == column / WIDTH % panels {
                fetch(w, row * w.stride + column + panels * WIDTH);
            }
        }
        let first = read(row);
        let second = if row + 1 < w.rows { read(row + 1) } else { _mm512_setzero_si512() };
        // SAFETY: the panel has PAIR elements for each pair of rows.
        unsafe {
            _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(first, first_turns, second));
            _mm512_storeu_si512(to.add(32).cast(), _mm512_permutex2var_epi16(first, second_turns, second));
            to = to.add(PAIR);
        }
    }
}

/// Weights `first` to `first + 31`.
///
/// # Safety
/// The processor has the instructions; the weights exist, share a block, and `first` is even.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn decode(blocks: &Blocks, first: usize) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe { look_up(blocks, table(blocks, blocks.block_of(first)), first) }
}

/// What the sixteen values of half a byte are worth in block `block`, twice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn table(blocks: &Blocks, block: usize) -> __m512i {
    let scale = _mm512_set1_ps(blocks.scale(block));
    // SAFETY: 16 codes are 16 floats.
    let code = unsafe { _mm512_loadu_ps(blocks.code().as_ptr()) };
    let table: __m256i = as_words(_mm512_cvtneps_pbh(_mm512_mul_ps(code, scale)));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(table), table)
}

/// Weights `first` to `first + 31`, whose block has this table.
///
/// # Safety
/// The processor has the instructions; the weights exist, and `first` is even.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn look_up(blocks: &Blocks, table: __m512i, first: usize) -> __m512i {
    // SAFETY: weight `first + 31` exists, so byte `first / 2 + 15` does.
    let bytes = unsafe { _mm_loadu_si128(blocks.packed().as_ptr().add(first / 2).cast()) };
    let bytes = _mm512_cvtepu8_epi32(bytes);
    // Of each byte, the high half comes first. Both halves of the table are alike, so an index's fifth bit may be anything.
    let indices = _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes));
    _mm512_permutexvar_epi16(indices, table)
}

/// 16 rows of 16 words of 32 bits become 16 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // In each quarter of a register: four rows of one column after the second step.
    let mut fours = [_mm512_setzero_si512(); 16];
    for i in (0..16).step_by(4) {
        let (low, high) = (_mm512_unpacklo_epi32(rows[i], rows[i + 1]), _mm512_unpackhi_epi32(rows[i], rows[i + 1]));
        let (low2, high2) =
            (_mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]), _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]));
        fours[i] = _mm512_unpacklo_epi64(low, low2);
        fours[i + 1] = _mm512_unpackhi_epi64(low, low2);
        fours[i + 2] = _mm512_unpacklo_epi64(high, high2);
        fours[i + 3] = _mm512_unpackhi_epi64(high, high2);
    }
    let mut columns = [_mm512_setzero_si512(); 16];
    for j in 0..4 {
        let even = _mm512_shuffle_i32x4::<0x88>(fours[j], fours[4 + j]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(fours[j], fours[4 + j]);
        let even2 = _mm512_shuffle_i32x4::<0x88>(fours[8 + j], fours[12 + j]);
        let odd2 = _mm512_shuffle_i32x4::<0xdd>(fours[8 + j], fours[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even, even2);
        columns[j + 4] = _mm512_shuffle_i32x4::<0x88>(odd, odd2);
        columns[j + 8] = _mm512_shuffle_i32x4::<0xdd>(even, even2);
        columns[j + 12] = _mm512_shuffle_i32x4::<0xdd>(odd, odd2);
    }
    columns
}

/// The first 32 numbers of `count`, zeros if there are fewer.
///
/// # Safety
/// The processor has the instructions; there is at least one number, and they exist from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn load_some(at: *const bf16, count: usize) -> __m512i {
    let mask = if count < 32 { (1 << count) - 1 } else { u32::MAX };
    // SAFETY: promised by the caller; what the mask leaves out is not read.
    unsafe { _mm512_maskz_loadu_epi16(mask, at.cast()) }
}

/// The same bits as words.
#[inline(always)]
fn as_words(values: __m256bh) -> __m256i {
    // SAFETY: both are 256 bits, any of which are valid.
    unsafe { std::mem::transmute(values) }
}
