//! Double quantization: the absmax values, 32 bits for every block, become 8 bits.
//!
//! ```text
//! offset = mean(absmax)
//! codes[b] = nearest((absmax[b] - offset) / nested_absmax[b / 256])      in a map of 256 values
//! absmax[b] ~ map[codes[b]] * nested_absmax[b / 256] + offset
//! ```
//!
//! With blocks of 64 that is 8/64 + 32/(64·256) = 0.127 bits per weight instead of 0.5.
//!
//! The numbers are those of bitsandbytes on an x86 CPU with torch on one thread, to the bit. Torch splits a sum of
//! 32768 values or more among its threads, so with several threads its offset for larger tensors (more than two million
//! weights) may differ in the last bit.

use std::sync::OnceLock;

use super::Absmax;

/// Absmax values per nested block.
pub const NESTED_BLOCKSIZE: usize = 256;

/// The dynamic 8-bit map: ascending, with more values near zero.
///
/// A value is ±10^(i-6) times one of the 2^i midpoints of an even division of 0.1..=1, for i in 0..7, besides 0 and 1:
/// a leading run of zero bits is the exponent, the bits left over are the fraction.
///
/// Source: Dettmers, arXiv:1511.04561; bitsandbytes `create_dynamic_map(signed=True, max_exponent_bits=7)`.
pub fn create_dynamic_map() -> [f32; 256] {
    let mut map = [0.0; 256];
    let mut next = 2;
    map[1] = 1.0;
    for i in 0..7 {
        let boundaries = linspace(0.1, 1.0, (1 << i) + 1);
        let scale = 10f64.powi(i - 6) as f32;
        for pair in boundaries.windows(2) {
            let mean = scale * ((pair[0] + pair[1]) / 2.0);
            map[next] = mean;
            map[next + 1] = -mean;
            next += 2;
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// `torch.linspace`: counts from the nearer end, each step one fused multiplication and addition.
fn linspace(start: f32, end: f32, steps: usize) -> Vec<f32> {
    let step = (end - start) / (steps - 1) as f32;
    let value = |i: usize| {
        if i < steps / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((steps - i - 1) as f32, end) }
    };
    (0..steps).map(value).collect()
}

/// The map and what encodes with it, made once.
struct DynamicMap {
    code: [f32; 256],
    /// The nearest code for each of 65536 even steps from -1 to 1, which is as finely as bitsandbytes tells them apart.
    nearest: Vec<u8>,
}

impl DynamicMap {
    fn get() -> &'static Self {
        static MAP: OnceLock<DynamicMap> = OnceLock::new();
        MAP.get_or_init(|| {
            let code = create_dynamic_map();
            let midpoints: Vec<f32> = code.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
            let nearest = |step: u32| {
                let value = -1.0 + (2.0 * step as f32) / 65535.0;
                midpoints.partition_point(|&m| m < value) as u8
            };
            Self { code, nearest: (0..65536).map(nearest).collect() }
        })
    }

    /// The code nearest to `value`, which is clamped to -1..=1.
    fn encode(&self, value: f32) -> u8 {
        let step = (value.clamp(-1.0, 1.0) + 1.0) * 0.5 * 65535.0 + 0.5;
        self.nearest[usize::from(step as u16)]
    }
}

/// Compresses one absmax per block. A nested block of zeros becomes codes 0 with absmax 0.
pub(super) fn compress(absmax: &[f32]) -> Absmax {
    let map = DynamicMap::get();
    let offset = mean(absmax);
    let mut codes = Vec::with_capacity(absmax.len());
    let mut nested = Vec::with_capacity(absmax.len().div_ceil(NESTED_BLOCKSIZE));
    for block in absmax.chunks(NESTED_BLOCKSIZE) {
        let largest = block.iter().fold(0.0, |m: f32, v| m.max((v - offset).abs()));
        let reciprocal = 1.0 / largest;
        nested.push(largest);
        codes.extend(block.iter().map(|v| if largest == 0.0 { 0 } else { map.encode((v - offset) * reciprocal) }));
    }
    Absmax::Nested { codes, code: map.code.to_vec(), absmax: nested, blocksize: NESTED_BLOCKSIZE, offset }
}

/// Undoes [`compress`] with the map that was stored.
pub(super) fn expand(codes: &[u8], code: &[f32], absmax: &[f32], blocksize: usize, offset: f32) -> Vec<f32> {
    let blocks = codes.chunks(blocksize).zip(absmax);
    blocks.flat_map(|(codes, scale)| codes.iter().map(move |&c| code[usize::from(c)] * scale + offset)).collect()
}

/// The mean, with torch's rounding: its sum divided by the length.
fn mean(values: &[f32]) -> f32 {
    sum(values) / values.len() as f32
}

/// Lanes of the vectors torch sums with; it uses AVX2 for sums even where there is AVX-512.
const LANES: usize = 8;
type Vector = [f32; LANES];

/// The sum of `values` in the order of torch's `cascade_sum` on one thread.
///
/// Vectors of eight go round four rows of running sums. Every 2^p of them are carried to the next of four levels, like
/// digits of a counter, which keeps the rounding error from growing with the length.
///
/// Source: torch `aten/src/ATen/native/cpu/SumKernel.cpp`, `vectorized_inner_sum`.
fn sum(values: &[f32]) -> f32 {
    if values.len() < LANES {
        // One value takes the place of a vector.
        let single: Vec<Vector> = values.iter().map(|&v| [v, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).collect();
        return row_sum(&single)[0];
    }
    let (vectors, rest) = values.as_chunks::<LANES>();
    let lanes = row_sum(vectors);
    let rest = rest.iter().fold(0.0, |sum, v| sum + v);
    lanes.iter().fold(rest, |sum, v| sum + v)
}

fn row_sum(vectors: &[Vector]) -> Vector {
    let (quads, rest) = vectors.as_chunks::<4>();
    let mut rows = multi_row_sum(quads);
    for vector in rest {
        add(&mut rows[0], vector);
    }
    let [mut total, others @ ..] = rows;
    for row in &others {
        add(&mut total, row);
    }
    total
}

fn multi_row_sum(quads: &[[Vector; 4]]) -> [Vector; 4] {
    const LEVELS: usize = 4;
    let ceil_log2 = quads.len().next_power_of_two().trailing_zeros() as usize;
    let power = (ceil_log2 / LEVELS).max(4);
    let mut levels = [[[0.0; LANES]; 4]; LEVELS];
    let add_rows = |to: &mut [Vector; 4], from: &[Vector; 4]| to.iter_mut().zip(from).for_each(|(t, f)| add(t, f));
    for (i, quad) in quads.iter().enumerate() {
        add_rows(&mut levels[0], quad);
        let done = i + 1;
        if done % (1 << power) != 0 {
            continue;
        }
        for level in 1..LEVELS {
            let carried = std::mem::take(&mut levels[level - 1]);
            add_rows(&mut levels[level], &carried);
            if done & (((1 << power) - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    let [mut total, others @ ..] = levels;
    for level in &others {
        add_rows(&mut total, level);
    }
    total
}

fn add(to: &mut Vector, from: &Vector) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += f;
    }
}
